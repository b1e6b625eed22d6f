"use strict";
// Draws each molecule of the page on its canvas as balls and sticks, which turn by themselves and by dragging.
// Balls are pictures made once per colour, size and distance, sticks are shaded strips; what is nearer is drawn later.
const { colors, radii, stick, apart, molecules } = JSON.parse(document.getElementById("data").textContent);
const MIST = 0.45, LEVELS = 10, LARGEST = 0.12, SPEED = 0.55; // the last: radians per second
const ROUND = [[0, 8, 0.75], [0.1, 0, 0.12], [0.32, 255, 0.3], [0.55, 0, 0.06], [0.9, 0, 0.5], [1, 8, 0.8]]; // sticks
const SOLID = [[0, 255, 0.4], [0.16, 255, 0.14], [0.36, 0, 0], [0.68, 0, 0.18], [0.9, 0, 0.42], [1, 0, 0.52]]; // balls
const ROWS = { 1: [0], 2: [-1, 1], 3: [-1, 0, 1] };
let paper = [255, 255, 255], balls = new Map(), turning = !matchMedia("(prefers-reduced-motion: reduce)").matches;

const rgb = (code) => [1, 3, 5].map((i) => parseInt(code.slice(i, i + 2), 16));
const mix = (a, b, part) => a.map((value, i) => value + (b[i] - value) * part);
const css = (color, alpha = 1) => `rgba(${color.map(Math.round).join(",")},${alpha})`;
const times = (row, b, j) => row[0] * b[0][j] + row[1] * b[1][j] + row[2] * b[2][j];
const product = (a, b) => a.map((row) => [0, 1, 2].map((j) => times(row, b, j)));
const about = (x, y) => { // rotation about the upright axis by x, then about the one to the right by y
  const [c, s, d, t] = [Math.cos(x), Math.sin(x), Math.cos(y), Math.sin(y)];
  return product([[1, 0, 0], [0, d, -t], [0, t, d]], [[c, 0, s], [0, 1, 0], [-s, 0, c]]);
};

function ball(symbol, size, level) { // a picture of size pixels; level: how far it is in the mist, from 0 to LEVELS
  const key = `${symbol} ${size} ${level}`;
  if (balls.has(key)) return balls.get(key);
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d"), r = size / 2 - 1;
  canvas.width = canvas.height = size;
  const base = rgb(colors[symbol]), far = (color) => css(mix(color, paper, (MIST * level) / LEVELS));
  pen.translate(size / 2, size / 2);
  const shade = pen.createRadialGradient(-0.32 * r, -0.42 * r, 0, -0.16 * r, -0.2 * r, 1.28 * r);
  for (const [place, tone, part] of SOLID) shade.addColorStop(place, far(mix(base, [tone, tone, tone], part)));
  pen.beginPath();
  pen.arc(0, 0, r, 0, 7);
  pen.fillStyle = shade;
  pen.fill();
  const shine = pen.createRadialGradient(-0.34 * r, -0.42 * r, 0, -0.34 * r, -0.42 * r, 0.3 * r);
  shine.addColorStop(0, `rgba(255,255,255,${0.75 - (0.5 * level) / LEVELS})`);
  shine.addColorStop(1, "rgba(255,255,255,0)");
  pen.fillStyle = shine;
  pen.fill();
  pen.lineWidth = Math.max(1, 0.05 * r);
  pen.strokeStyle = far(mix(base, [10, 12, 18], 0.8));
  pen.stroke();
  if (balls.size > 2000) balls.clear(); // sizes change while a tall molecule is dragged
  balls.set(key, canvas);
  return canvas;
}

class View {
  constructor(canvas, { symbols, places, bonds }) {
    Object.assign(this, { canvas, symbols, places, bonds, turn: about(0, 0), shown: false, stale: true });
    this.radii = symbols.map((symbol) => radii[symbol]);
    this.reach = Math.max(1, ...places.map((place, i) => Math.hypot(...place) + this.radii[i]));
    this.deep = Math.max(2.5, Math.min(this.reach, 6));
    canvas.onpointerdown = (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.held = [event.clientX, event.clientY];
      this.moved = 0;
    };
    canvas.onpointermove = (event) => {
      if (!this.held) return;
      const dx = event.clientX - this.held[0], dy = event.clientY - this.held[1];
      this.held = [event.clientX, event.clientY];
      this.moved += Math.abs(dx) + Math.abs(dy);
      this.rotate(0.012 * dx, 0.012 * dy);
    };
    canvas.onpointercancel = () => { this.held = null; };
    canvas.onpointerup = () => {
      if (this.held && this.moved < 4) canvas.parentElement.classList.toggle("large");
      this.held = null;
    };
  }

  rotate(x, y) {
    this.turn = product(about(x, y), this.turn);
    this.stale = true;
    wake();
  }

  fit() {
    const dots = Math.min(devicePixelRatio || 1, 2);
    this.canvas.width = Math.round(this.canvas.clientWidth * dots);
    this.canvas.height = Math.round(this.canvas.clientHeight * dots);
    this.draw(); // at once: a canvas of another size is empty
  }

  draw() {
    const { width, height } = this.canvas, pen = this.canvas.getContext("2d"), side = Math.min(width, height);
    if (side < 8) return; // of a card that is hidden
    const t = this.turn;
    const seen = this.places.map(([x, y, z]) => t.map((row) => row[0] * x + row[1] * y + row[2] * z));
    const high = Math.max(1, ...seen.map((place, i) => Math.abs(place[1]) + this.radii[i]));
    const unit = Math.min(side * LARGEST, (width / 2 - 2) / this.reach, (height / 2 - 2) / high);
    const level = (z) => Math.round(LEVELS * Math.min(1, Math.max(0, (0.3 * this.deep - z) / (1.3 * this.deep))));
    const parts = seen.map((place, i) => [place[2], () => {
      const size = 2 * Math.round(this.radii[i] * unit + 1);
      const picture = ball(this.symbols[i], size, level(place[2]));
      pen.drawImage(picture, place[0] * unit - size / 2, -place[1] * unit - size / 2);
    }]);
    for (const [i, j, order] of this.bonds) {
      const way = seen[j].map((value, k) => value - seen[i][k]), long = Math.hypot(...way);
      const [ri, rj] = [this.radii[i], this.radii[j]];
      if (long < 0.6 * (ri + rj)) continue; // one ball in the other: there is no stick to see
      const at = (part) => seen[i].map((value, k) => value + way[k] * part);
      const ends = [at((0.8 * ri) / long), at((long + ri - rj) / (2 * long)), at(1 - (0.8 * rj) / long)];
      for (const [from, to, atom] of [[ends[0], ends[1], i], [ends[2], ends[1], j]]) {
        const z = (from[2] + to[2]) / 2;
        parts.push([z, () => this.stick(pen, from, to, this.symbols[atom], order, unit, level(z))]);
      }
    }
    parts.sort((a, b) => a[0] - b[0]);
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.translate(width / 2, height / 2);
    for (const [, paint] of parts) paint();
    this.stale = false;
  }

  stick(pen, from, to, symbol, order, unit, level) { // half a bond, in the colour of its atom
    const [dx, dy] = [to[0] - from[0], from[1] - to[1]], flat = Math.hypot(dx, dy);
    if (flat < 1e-3) return;
    let [ax, ay] = [-dy / flat, dx / flat]; // across, on the side that faces the light
    if (ax + 1.4 * ay > 0) [ax, ay] = [-ax, -ay];
    const thick = stick[order] * unit, base = rgb(colors[symbol]);
    const tone = (value, part) => css(mix(mix(base, [value, value, value], part), paper, (MIST * level) / LEVELS));
    for (const row of ROWS[order]) {
      const shift = row * apart[order] * unit * (ay > 0 || (ay === 0 && ax > 0) ? 1 : -1);
      const [x0, y0] = [from[0] * unit + ax * shift, -from[1] * unit + ay * shift];
      const [x1, y1] = [to[0] * unit + ax * shift, -to[1] * unit + ay * shift];
      const shade = pen.createLinearGradient(x0 + ax * thick, y0 + ay * thick, x0 - ax * thick, y0 - ay * thick);
      for (const [place, value, part] of ROUND) shade.addColorStop(place, tone(value, part));
      pen.beginPath();
      pen.moveTo(x0, y0);
      pen.lineTo(x1, y1);
      pen.lineWidth = 2 * thick;
      pen.strokeStyle = shade;
      pen.stroke();
    }
  }
}

const canvases = [...document.querySelectorAll("canvas")];
const views = new Map(canvases.map((canvas, i) => [canvas, new View(canvas, molecules[i])]));
let waiting = 0, before = 0;

function wake() {
  waiting = waiting || requestAnimationFrame(step);
}

function step(now) {
  waiting = 0;
  const passed = Math.min(0.1, (now - before) / 1000), moving = [...views.values()].filter((view) => view.shown);
  before = now;
  for (const view of moving) {
    if (turning && !view.held) view.rotate(SPEED * passed, 0);
    if (view.stale) view.draw();
  }
}

function dress() { // after the page has become light or dark
  paper = getComputedStyle(document.querySelector("figure")).backgroundColor.match(/\d+/g).slice(0, 3).map(Number);
  balls.clear();
  for (const view of views.values()) view.stale = true;
  wake();
}

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) views.get(target).shown = isIntersecting;
  wake();
});
const sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => views.get(target).fit()));
canvases.forEach((canvas) => { seen.observe(canvas); sizes.observe(canvas); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", dress);
if (canvases.length) dress();

const pause = document.getElementById("turn"), filters = [...document.querySelectorAll("[data-show]")];
const label = () => { pause.textContent = turning ? "Pause" : "Turn"; };
pause.onclick = () => { turning = !turning; label(); wake(); };
label();
for (const button of filters) button.onclick = () => {
  for (const other of filters) other.setAttribute("aria-pressed", String(other === button));
  for (const figure of document.querySelectorAll("figure"))
    figure.hidden = button.dataset.show !== "all" && !figure.classList.contains(button.dataset.show);
};
