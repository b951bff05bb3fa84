"use strict";
// Draws what the page cannot hold as text: the timeline, memory over time, and two line charts. Needs no network.

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const tip = document.getElementById("tip");
const FONT = getComputedStyle(document.body).fontFamily;
const NAMES = { F: "Forward", B: "Backward", I: "Input gradient", W: "Weight gradient", recompute: "Recomputation",
  send: "Transfer", "all-reduce": "Gradient all-reduce", optimizer: "Optimizer step" };

function scaled(value, unit, steps) {
  if (!value) return "0 " + unit;
  const [prefix, factor] = steps.find(([, f]) => Math.abs(value) >= f * 0.9995) || steps[steps.length - 1];
  return Number((value / factor).toPrecision(3)) + " " + prefix + unit;
}
const seconds = (v) => scaled(v, "s", [["", 1], ["m", 1e-3], ["µ", 1e-6], ["n", 1e-9]]);
const bytes = (v) => scaled(v, "B", [["P", 1e15], ["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3], ["", 1]]);

function showTip(text, x, y) {
  tip.textContent = text;
  tip.style.display = "block";
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(6, Math.min(x + 14, innerWidth - box.width - 6)) + "px";
  tip.style.top = (y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18) + "px";
}
const hideTip = () => { tip.style.display = "none"; };

async function unpack(text) {
  const raw = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

// Flat numbers of `timeline.py` -> events in order of their start, with what is needed to find them by time.
function decode(flat, width) {
  const events = [];
  let start = 0, longest = 0;
  for (let i = 0; i < flat.length; i += width) {
    start += flat[i];
    events.push({ start, end: start + flat[i + 1], kind: flat[i + 2], stage: flat[i + 3], mb: flat[i + 4],
      peer: width > 5 ? flat[i + 5] : -1, kb: width > 5 ? flat[i + 6] : 0 });
    longest = Math.max(longest, flat[i + 1]);
  }
  return { events, longest };
}
function firstFrom(list, time) { // index of the first event that can reach `time`
  let lo = 0, hi = list.events.length;
  while (lo < hi) { const mid = (lo + hi) >> 1; if (list.events[mid].start < time - list.longest) lo = mid + 1; else hi = mid; }
  return lo;
}
function at(list, time, slack) {
  let found = null;
  for (let i = firstFrom(list, time - slack); i < list.events.length && list.events[i].start <= time + slack; i++) {
    if (list.events[i].end >= time - slack) found = list.events[i];
  }
  return found;
}
function niceStep(span, count) {
  const raw = span / count, power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].find((m) => m * power >= raw) * power;
}

function timeline(data) {
  const canvas = document.getElementById("lanes"), memoryCanvas = document.getElementById("memory-lanes");
  const both = Object.keys(data.end).length > 1;
  const end = Math.max(...Object.values(data.end));
  const allLanes = data.lanes.map((l) => ({ ...l, compute: decode(l.compute, 5), transfer: decode(l.transfer, 7) }));
  const groupOf = new Map(data.alike.flatMap((group) => group.map((d) => [d, group])));
  const open = new Set(); // groups of devices that do alike, and that are unfolded
  const shown = (item) => { const group = groupOf.get(item.device); return item.device === group[0] || open.has(group); };
  let lanes = [], curves = [];
  const view = { a: 0, b: end };
  let hovered = null, palette = null;
  const AXIS = 24;
  let barHeight, thinHeight, tops, height;
  const pitch = (lane) => barHeight + thinHeight + (both && lane.source === "simulated" ? 2 : barHeight >= 16 ? 12 : 6);
  function arrange() {
    lanes = allLanes.filter(shown);
    curves = data.memory.filter(shown);
    barHeight = Math.max(7, Math.min(26, Math.round(760 / lanes.length) - 12));
    thinHeight = barHeight >= 16 ? 6 : 3;
    tops = [];
    lanes.reduce((y, lane) => { tops.push(y); return y + pitch(lane); }, AXIS + 6);
    height = tops.length ? tops[tops.length - 1] + pitch(lanes[lanes.length - 1]) : AXIS;
  }
  arrange();
  const gutter = () => (canvas.clientWidth < 520 ? 62 : both ? 132 : 104);
  const toX = (t, w) => gutter() + (t - view.a) / (view.b - view.a) * (w - gutter());
  const toTime = (x, w) => view.a + (x - gutter()) / (w - gutter()) * (view.b - view.a);

  function prepare(target, cssHeight) {
    const ratio = Math.min(2, devicePixelRatio || 1), width = target.clientWidth;
    target.style.height = cssHeight + "px";
    if (target.width !== Math.round(width * ratio) || target.height !== Math.round(cssHeight * ratio)) {
      target.width = Math.round(width * ratio);
      target.height = Math.round(cssHeight * ratio);
    }
    const g = target.getContext("2d");
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, cssHeight);
    return [g, width];
  }
  function axis(g, width, bottom) {
    const step = niceStep((view.b - view.a) * data.tick_s, Math.max(2, (width - gutter()) / 110)) / data.tick_s;
    g.font = "12px " + FONT; g.textAlign = "center"; g.textBaseline = "middle";
    for (let t = Math.ceil(view.a / step) * step; t <= view.b + 1e-9; t += step) {
      const x = Math.round(toX(t, width)) + 0.5;
      g.strokeStyle = palette.line; g.beginPath(); g.moveTo(x, AXIS - 4); g.lineTo(x, bottom); g.stroke();
      g.fillStyle = palette.muted;
      const text = seconds(Math.round(t * data.tick_s * 1e12) / 1e12), half = g.measureText(text).width / 2;
      g.fillText(text, Math.max(gutter() + half, Math.min(x, width - half)), AXIS / 2);
    }
  }
  function bars(g, list, y, h, width, numbers) {
    const from = firstFrom(list, view.a);
    for (let i = from; i < list.events.length && list.events[i].start <= view.b; i++) {
      const e = list.events[i];
      if (e.end < view.a) continue;
      const x0 = Math.max(gutter(), toX(e.start, width)), x1 = Math.min(width, toX(e.end, width)), w = x1 - x0;
      g.globalAlpha = hovered && hovered.mb >= 0 && e.mb !== hovered.mb ? 0.28 : e.mb % 2 === 1 ? 0.8 : 1;
      g.fillStyle = palette.kinds[e.kind];
      g.fillRect(x0, y, Math.max(w > 3 ? w - 0.8 : w, 0.7), h);
      if (numbers && w > 13 && e.mb >= 0) {
        g.fillStyle = palette.text; g.textAlign = "center"; g.textBaseline = "middle";
        if (g.measureText(e.mb).width < w - 3) g.fillText(e.mb, (x0 + x1) / 2, y + h / 2 + 0.5);
      }
    }
    g.globalAlpha = 1;
  }
  function critical(g, device, y, width) { // a line above actions, and below transfers, of the critical path
    g.fillStyle = palette.ink;
    for (let i = 0; i < data.critical.length; i += 4) {
      if (data.critical[i] !== device) continue;
      const x0 = Math.max(gutter(), toX(data.critical[i + 1], width));
      const x1 = Math.min(width, toX(data.critical[i + 1] + data.critical[i + 2], width));
      if (x1 > gutter() && x0 < width) g.fillRect(x0, data.critical[i + 3] ? y + barHeight + thinHeight + 2 : y - 3, Math.max(x1 - x0, 0.7), 2);
    }
  }
  function label(g, device, source, y, h) {
    const kind = data.devices[device];
    g.textBaseline = "middle"; g.textAlign = "left";
    const small = h < 12;
    g.fillStyle = palette.ink; g.font = `600 ${small ? 10 : 13}px ${FONT}`;
    const group = groupOf.get(device), folds = group.length > 1 && device === group[0];
    const name = (folds ? (open.has(group) ? "▾ " : "▸ ") : "") + "#" + device + (folds && !open.has(group) ? " ×" + group.length : "");
    g.fillText(name, 0, y + h / 2);
    const left = g.measureText(name).width + 6;
    g.fillStyle = palette.muted; g.font = `${small ? 9 : 12}px ${FONT}`;
    let text = both ? (source === "measured" ? "measured" : "predicted") : kind.type;
    while (text.length > 2 && left + g.measureText(text).width > gutter() - 6) text = text.slice(0, -2) + "…";
    g.fillText(text, left, y + h / 2);
  }
  function drawLanes() {
    const [g, width] = prepare(canvas, height);
    axis(g, width, height);
    lanes.forEach((lane, i) => {
      const y = tops[i];
      g.fillStyle = palette.soft; g.fillRect(gutter(), y, width - gutter(), barHeight);
      label(g, lane.device, lane.source, y, barHeight);
      g.font = `${barHeight >= 16 ? 12 : 9}px ${FONT}`;
      if (!lane.compute.events.length) { g.fillStyle = palette.muted; g.textAlign = "left"; g.fillText("not used", gutter() + 8, y + barHeight / 2 + 0.5); }
      bars(g, lane.compute, y, barHeight, width, barHeight >= 10);
      bars(g, lane.transfer, y + barHeight + 1, thinHeight, width, false);
      if (lane.source === "simulated") critical(g, lane.device, y, width);
    });
  }
  const rowHeight = () => (curves.length > 24 ? 30 : 46), memoryPitch = () => rowHeight() + 20;
  function drawMemory() {
    const total = AXIS + curves.length * memoryPitch() + 6;
    const [g, width] = prepare(memoryCanvas, total);
    axis(g, width, total);
    curves.forEach((curve, i) => {
      const top = AXIS + 18 + i * memoryPitch(), base = top + rowHeight(), p = curve.points;
      const capacity = data.devices[curve.device].capacity;
      let peak = 0;
      for (let k = 1; k < p.length; k += 2) peak = Math.max(peak, p[k]);
      const over = peak > capacity, small = peak < capacity / 5; // small: blown up, the line is only near the top
      const scale = small ? rowHeight() * 0.5 / (peak || 1) : rowHeight() / (Math.max(capacity, peak) * 1.04);
      const limit = small ? top + 2 : base - capacity * scale;
      g.fillStyle = palette.soft; g.fillRect(gutter(), top, width - gutter(), rowHeight());
      g.save(); g.beginPath(); g.rect(gutter(), top - 2, width - gutter(), rowHeight() + 4); g.clip();
      g.beginPath(); g.moveTo(toX(0, width), base);
      let level = 0;
      for (let k = 0; k < p.length; k += 2) {
        const x = toX(p[k], width);
        g.lineTo(x, base - level * scale);
        level = p[k + 1];
        g.lineTo(x, base - level * scale);
      }
      const last = toX(data.end[curve.source], width);
      g.lineTo(last, base - level * scale); g.lineTo(last, base); g.closePath();
      g.fillStyle = palette.kinds[over ? 2 : 0]; g.globalAlpha = 0.45; g.fill(); g.globalAlpha = 1;
      g.strokeStyle = g.fillStyle; g.lineWidth = 1.3; g.stroke(); g.lineWidth = 1;
      g.strokeStyle = over ? palette.bad : palette.ink; g.setLineDash([5, 4]); g.beginPath();
      g.moveTo(gutter(), limit); g.lineTo(width, limit); g.globalAlpha = small ? 0.45 : 1; g.stroke(); g.globalAlpha = 1; g.setLineDash([]);
      g.restore();
      label(g, curve.device, curve.source, top, rowHeight());
      g.font = "12px " + FONT; g.textAlign = "left"; g.fillStyle = over ? palette.bad : palette.muted;
      const share = Math.round(peak / capacity * 100);
      g.fillText(!peak ? "not used" : over ? `needs ${bytes(peak)} of ${bytes(capacity)}: ${bytes(peak - capacity)} too much`
        : `peak ${bytes(peak)} of ${bytes(capacity)} (${share < 1 ? "<1" : share} %)` + (small && peak && width > 520 ? ", line not to scale" : ""), gutter(), top - 8);
    });
  }
  let queued = false;
  function redraw() {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => {
      queued = false;
      palette = { ink: css("--ink"), muted: css("--muted"), line: css("--line"), soft: css("--soft"), bad: css("--bad"),
        text: css("--k-text"), kinds: data.kinds.map((k) => css("--k-" + k)) };
      drawLanes();
      drawMemory();
      const zoomed = view.b - view.a < end * 0.999;
      canvas.classList.toggle("zoomed", zoomed);
      memoryCanvas.classList.toggle("zoomed", zoomed);
    });
  }
  function clamp(a, b) {
    const span = Math.min(end, Math.max(end / 5000, b - a));
    const start = Math.min(Math.max(0, a), end - span);
    view.a = start; view.b = start + span;
    redraw();
  }
  function zoom(factor, centre) {
    const c = centre ?? (view.a + view.b) / 2;
    clamp(c - (c - view.a) * factor, c + (view.b - c) * factor);
  }
  document.querySelectorAll("[data-zoom]").forEach((button) => button.addEventListener("click", () => {
    const factor = Number(button.dataset.zoom);
    if (factor) zoom(factor); else clamp(0, end);
  }));

  function describe(e, lane) {
    const lines = [NAMES[data.kinds[e.kind]] + (e.mb >= 0 ? ` of micro-batch ${e.mb}` : "") + (e.stage >= 0 ? `, stage ${e.stage}` : "")];
    lines.push(e.peer >= 0 ? `#${lane.device} → #${e.peer}, ${bytes(e.kb * 1e3)}` : `device #${lane.device} (${data.devices[lane.device].type}, host ${data.devices[lane.device].host})`);
    lines.push(`${seconds((e.end - e.start) * data.tick_s)}, from ${seconds(e.start * data.tick_s)} to ${seconds(e.end * data.tick_s)}`);
    if (both) lines.push(lane.source === "measured" ? "measured" : "predicted");
    return lines.join("\n");
  }
  function hover(event) {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const time = toTime(x, box.width), slack = (view.b - view.a) / (box.width - gutter()) * 2;
    const i = tops.findLastIndex((top) => y >= top);
    let found = null;
    if (i >= 0 && x >= gutter()) found = at(y > tops[i] + barHeight ? lanes[i].transfer : lanes[i].compute, time, slack);
    if (found !== hovered) { hovered = found; redraw(); }
    if (found) showTip(describe(found, lanes[i]), event.clientX, event.clientY); else hideTip();
  }
  function hoverMemory(event) {
    const box = memoryCanvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const curve = curves[Math.floor((y - AXIS) / memoryPitch())];
    if (!curve || x < gutter()) return hideTip();
    const time = toTime(x, box.width), p = curve.points;
    let level = 0;
    for (let k = 0; k < p.length && p[k] <= time; k += 2) level = p[k + 1];
    showTip(`device #${curve.device}: ${bytes(level)} at ${seconds(time * data.tick_s)}`, event.clientX, event.clientY);
  }

  function toggle(group) {
    if (open.has(group)) open.delete(group); else open.add(group);
    arrange();
    redraw();
  }
  function clicked(target, event) { // on the name of devices that do alike
    const box = target.getBoundingClientRect(), y = event.clientY - box.top;
    if (event.clientX - box.left >= gutter()) return;
    const item = target === canvas ? lanes[tops.findLastIndex((top) => y >= top)] : curves[Math.floor((y - AXIS) / memoryPitch())];
    const group = item && groupOf.get(item.device);
    if (group && group.length > 1) toggle(group);
  }
  for (const target of [canvas, memoryCanvas]) target.addEventListener("click", (event) => clicked(target, event));
  const foldAll = document.querySelector("[data-fold]");
  if (foldAll) foldAll.addEventListener("click", () => {
    const folded = open.size === 0;
    data.alike.forEach((group) => { if (group.length > 1) { if (folded) open.add(group); else open.delete(group); } });
    foldAll.textContent = folded ? "Fold" : "Unfold all";
    arrange();
    redraw();
  });

  const pointers = new Map();
  for (const target of [canvas, memoryCanvas]) {
    target.addEventListener("pointerdown", (e) => { pointers.set(e.pointerId, e.clientX); target.setPointerCapture(e.pointerId); });
    target.addEventListener("pointermove", (e) => {
      const box = target.getBoundingClientRect();
      if (pointers.has(e.pointerId)) {
        const before = [...pointers.values()];
        pointers.set(e.pointerId, e.clientX);
        const after = [...pointers.values()];
        if (after.length === 2) {
          const spread = Math.abs(after[0] - after[1]), old = Math.abs(before[0] - before[1]);
          if (spread > 8 && old > 8) zoom(old / spread, toTime((after[0] + after[1]) / 2 - box.left, box.width));
        } else {
          const shift = (before[0] - after[0]) / (box.width - gutter()) * (view.b - view.a);
          if (shift) clamp(view.a + shift, view.b + shift);
        }
      } else if (target === canvas) hover(e);
      else hoverMemory(e);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      target.addEventListener(name, (e) => { pointers.delete(e.pointerId); if (target === canvas && e.pointerType === "touch") hover(e); });
    }
    target.addEventListener("pointerleave", () => { hideTip(); if (hovered) { hovered = null; redraw(); } });
    target.addEventListener("wheel", (e) => {
      if (!e.ctrlKey && !e.metaKey) return;
      e.preventDefault();
      const box = target.getBoundingClientRect();
      zoom(Math.exp(Math.max(-60, Math.min(60, e.deltaY)) / 120), toTime(e.clientX - box.left, box.width));
    }, { passive: false });
    target.addEventListener("dblclick", (e) => { const box = target.getBoundingClientRect(); zoom(0.4, toTime(e.clientX - box.left, box.width)); });
  }
  canvas.addEventListener("keydown", (e) => {
    const shift = (view.b - view.a) / 6;
    if (e.key === "+" || e.key === "=") zoom(0.6);
    else if (e.key === "-") zoom(1 / 0.6);
    else if (e.key === "0") clamp(0, end);
    else if (e.key === "ArrowLeft") clamp(view.a - shift, view.b - shift);
    else if (e.key === "ArrowRight") clamp(view.a + shift, view.b + shift);
    else return;
    e.preventDefault();
  });
  new ResizeObserver(redraw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  redraw();
}

// A line chart: {series: [{name, points: [[x, y], ...], step}], x: {label, log}, y: {label, unit, log}, bound}
function chart(figure, spec) {
  const unit = spec.y.unit === "s" ? seconds : (v) => String(Number(v.toPrecision(4)));
  const xUnit = spec.x.unit === "s" ? seconds : (v) => String(Math.round(v));
  const points = spec.series.flatMap((s) => s.points);
  const ys = points.map((p) => p[1]).concat(spec.bound ? [spec.bound] : []);
  let [x0, x1] = [Math.min(...points.map((p) => p[0])), Math.max(...points.map((p) => p[0]))];
  if (x1 <= x0) x1 = x0 + (spec.x.log ? x0 : 1);
  let [y0, y1] = [Math.min(...ys), Math.min(spec.y.cut ?? Infinity, Math.max(...ys))];
  const room = (y1 - y0 || Math.abs(y1) || 1) * 0.06;
  const yLog = spec.y.unit === "s" && y0 > 0 && y1 / y0 > 6;
  if (yLog) { y0 /= 1.08; y1 *= 1.08; } else { y0 -= room; y1 += room; }
  const scale = (log, lo, hi) => (v) => (log ? Math.log(v / lo) / Math.log(hi / lo) : (v - lo) / (hi - lo));
  const fx = scale(spec.x.log, x0, x1), fy = scale(yLog, y0, y1);
  const ticks = (log, lo, hi, count, least = 0) => {
    if (!log) { const step = Math.max(least, niceStep(hi - lo, count)), out = []; for (let k = Math.ceil(lo / step - 1e-9); k * step <= hi + step * 1e-9; k++) out.push(Number((k * step).toPrecision(12))); return out; }
    const all = [];
    for (let p = Math.floor(Math.log10(lo)); p <= Math.ceil(Math.log10(hi)); p++) for (const m of [1, 2, 5]) all.push(m * 10 ** p);
    const inside = all.filter((t) => t >= lo * 0.999 && t <= hi * 1.001), tens = inside.filter((t) => Math.abs(Math.log10(t) - Math.round(Math.log10(t))) < 1e-9);
    return inside.length > count && tens.length > 1 ? tens : inside;
  };
  const clip = `clip-${figure.dataset.chart}`;
  const colors = (i) => `var(--d${i % 8})`, dashes = ["", "7 4", "2 4"];
  const escape = (t) => String(t).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
  function draw() {
    const width = figure.clientWidth, height = spec.series.length > 4 ? 360 : 270, left = 64, right = 12, top = 10, bottom = 42;
    if (!width) return;
    const X = (v) => left + fx(v) * (width - left - right), Y = (v) => height - bottom - fy(v) * (height - top - bottom);
    let out = `<svg viewBox="0 0 ${width} ${height}" height="${height}" role="img" aria-label="${escape(spec.label)}">`;
    for (const t of ticks(yLog, y0, y1, 6)) out += `<line class="grid" x1="${left}" x2="${width - right}" y1="${Y(t)}" y2="${Y(t)}"/><text x="${left - 8}" y="${Y(t) + 4}" text-anchor="end">${unit(t)}</text>`;
    for (const t of ticks(spec.x.log, x0, x1, Math.max(2, width / 110), spec.x.unit ? 0 : 1)) out += `<line class="grid" x1="${X(t)}" x2="${X(t)}" y1="${height - bottom}" y2="${height - bottom + 5}"/><text x="${X(t)}" y="${height - bottom + 19}" text-anchor="${fx(t) > 0.96 ? "end" : "middle"}">${xUnit(t)}</text>`;
    out += `<text x="${(left + width - right) / 2}" y="${height - 4}" text-anchor="middle">${escape(spec.x.label)}</text>`;
    if (spec.bound) out += `<line class="bound" x1="${left}" x2="${width - right}" y1="${Y(spec.bound)}" y2="${Y(spec.bound)}"/>`;
    for (const m of spec.marks ?? []) out += `<line class="mark ${escape(m.kind)}" x1="${X(m.x)}" x2="${X(m.x)}" y1="${top}" y2="${height - bottom}"><title>${escape(m.text)}</title></line>`;
    out += `<clipPath id="${clip}"><rect x="0" y="${top - 4}" width="${width}" height="${height - bottom - top + 8}"/></clipPath><g clip-path="url(#${clip})">`;
    spec.series.forEach((s, i) => {
      const path = s.points.map((p, k) => (k === 0 ? "M" : spec.step ? `H${X(p[0]).toFixed(1)}V` : "L") + (k && spec.step ? "" : X(p[0]).toFixed(1) + " ") + Y(p[1]).toFixed(1)).join("");
      out += `<path class="line" d="${path}" stroke="${colors(i)}" stroke-dasharray="${dashes[Math.floor(i / 8) % 3]}"/>`;
      if (spec.step) out += `<circle cx="${X(s.points[0][0])}" cy="${Y(s.points[0][1])}" r="3.5" fill="${colors(i)}"/>`;
    });
    out += "</g></svg><div class=\"legend\">" + spec.series.map((s, i) => `<span><svg class="key" viewBox="0 0 26 8"><line class="line" x1="1" x2="25" y1="4" y2="4" stroke="${colors(i)}" stroke-dasharray="${dashes[Math.floor(i / 8) % 3]}"/></svg>${escape(s.label ?? s.name)}</span>`).join("");
    if (spec.bound) out += `<span>┅ lower bound</span>`;
    if (spec.y.cut) out += `<span>values above ${unit(spec.y.cut)} are cut off</span>`;
    if (spec.remark) out += `<span>${escape(spec.remark)}</span>`;
    figure.innerHTML = out + "</div>";
    figure.querySelector("svg").addEventListener("pointermove", (e) => {
      const box = figure.querySelector("svg").getBoundingClientRect(), u = (e.clientX - box.left - left) / (width - left - right);
      if (u < 0 || u > 1) return hideTip();
      const x = spec.x.log ? x0 * (x1 / x0) ** u : x0 + u * (x1 - x0);
      const lines = spec.series.map((s) => { const p = s.points.filter((q) => q[0] <= x).pop(); return p ? `${s.name}: ${unit(p[1])}` : null; });
      const near = (spec.marks ?? []).filter((m) => Math.abs(m.x - x) * (width - left - right) < 6 * (x1 - x0)).map((m) => `${m.kind}: ${m.text}`);
      showTip([`${spec.x.short} ${xUnit(x)}`, ...lines.filter(Boolean), ...near].join("\n"), e.clientX, e.clientY);
    });
    figure.querySelector("svg").addEventListener("pointerleave", hideTip);
  }
  let width = 0;
  const resized = () => { if (figure.clientWidth !== width) { width = figure.clientWidth; draw(); } };
  new ResizeObserver(() => requestAnimationFrame(resized)).observe(figure);
}

const graph = document.querySelector(".graph"), firstBox = graph.querySelector(".box").getBoundingClientRect();
graph.scrollLeft = firstBox.left + firstBox.width / 2 - graph.getBoundingClientRect().left - graph.clientWidth / 2;
const specs = JSON.parse(document.getElementById("charts").textContent);
document.querySelectorAll("[data-chart]").forEach((figure) => chart(figure, specs[figure.dataset.chart]));
unpack(document.getElementById("data").textContent.trim()).then(timeline);
