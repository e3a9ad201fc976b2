// A scan as it runs: progress, plots, loci. The pieces come from view/feed.py, through a widget's
// model in notebooks and through dask_page.py in Dask's dashboard; nothing else is fetched.

const TESTS = [
  ["mean", "Mean", "Effect on the mean"],
  ["variance", "Variance", "Effect on the log variance"],
  ["joint", "Mean and variance", "Mean and variance, 2 df"],
];
const BITS = { mean: 1, variance: 2, joint: 4, effects: 8 };
const N_TILES = 24;
const LOCUS = 500000; // base pairs within which a variant belongs to a lead
const GENOME_WIDE = -Math.log10(5e-8);
const THEMES = {
  light: {
    text: "#1b1f24", muted: "#5b636d", grid: "#e4e7eb", odd: "#2c5d8f", even: "#8aa9c9",
    accent: "#D55E00", surface: "#ffffff",
  },
  dark: {
    text: "#e8eaed", muted: "#9aa3ad", grid: "#2c3138", odd: "#86b6e6", even: "#4a739c",
    accent: "#E69F00", surface: "#16191d",
  },
};
const FONT = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', sans-serif";
const WIDE = 1500; // pixels, of a projector: larger letters; as in dashboard.css

const count = (n) => Math.round(n).toLocaleString("en-US");
const digits = (x, n = 3) =>
  (x == null ? "–" : Number(x.toPrecision(n)).toString().replace(/^-/, "−"));
const place = (p) => `${p.chrom}:${count(p.pos)}`;

function pvalue(y) {
  if (y == null) return "–";
  if (y < 3) return digits(10 ** -y, 2);
  const exponent = Math.ceil(y);
  const mantissa = (10 ** (exponent - y)).toFixed(1);
  return mantissa === "10.0" ? `1.0e-${exponent - 1}` : `${mantissa}e-${exponent}`;
}

// An estimate to the digits that its standard error has.
function estimate(b, se) {
  if (b == null || !se) return "–";
  const decimals = Math.min(8, Math.max(0, 1 - Math.floor(Math.log10(se))));
  return `${b.toFixed(decimals)} ± ${se.toFixed(decimals)}`.replace("-", "−");
}

function make(tag, name, parent, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text != null) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function rowsOf(table) {
  const names = Object.keys(table);
  if (!names.length) return [];
  return table[names[0]].map((_, i) => Object.fromEntries(names.map((n) => [n, table[n][i]])));
}

function isDark(el) {
  const body = document.body;
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === "false";
  if (body.classList.contains("vscode-dark")) return true;
  if (body.classList.contains("vscode-light")) return false;
  for (let node = el; node; node = node.parentElement) {
    const found = getComputedStyle(node).backgroundColor.match(/[\d.]+/g).map(Number);
    if (found.length < 4 || found[3] > 0.5) {
      return 0.3 * found[0] + 0.59 * found[1] + 0.11 * found[2] < 128;
    }
  }
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

function ticks(low, high, wanted) {
  const raw = (high - low) / wanted || 1;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * unit >= raw) * unit;
  const out = [];
  for (let i = Math.ceil(low / step); i * step <= high + 1e-9 * step; i++) {
    out.push(Number((i * step).toPrecision(12)));
  }
  return out;
}

// A canvas with its scales and the points that lie on it.
class Plot {
  constructor(parent, name, label) {
    this.canvas = make("canvas", `hlmm-plot hlmm-${name}`, parent);
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", label);
    this.name = name;
    this.hits = [];
  }

  begin(theme, margin) {
    const box = this.canvas.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
    if (this.canvas.width !== width || this.canvas.height !== height) {
      [this.canvas.width, this.canvas.height] = [width, height];
    }
    this.theme = theme;
    this.ctx = this.canvas.getContext("2d");
    this.ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.ctx.clearRect(0, 0, box.width, box.height);
    this.em = this.canvas.closest(".hlmm").clientWidth >= WIDE ? 14 : 11;
    this.ctx.font = `${this.em}px ${FONT}`;
    const scale = this.em / 11;
    [this.left, this.top] = [margin.left * scale, margin.top];
    [this.right, this.bottom] = [box.width - margin.right * scale, box.height - margin.bottom * scale];
    this.hits = [];
    return this.right > this.left && this.bottom > this.top;
  }

  scale(x, y) {
    [this.x0, this.x1] = x;
    [this.y0, this.y1] = y;
  }

  px(x) {
    return this.left + ((x - this.x0) / (this.x1 - this.x0)) * (this.right - this.left);
  }

  py(y) {
    return this.bottom - ((y - this.y0) / (this.y1 - this.y0)) * (this.bottom - this.top);
  }

  text(words, x, y, align = "left", baseline = "alphabetic", color = this.theme.muted) {
    Object.assign(this.ctx, { fillStyle: color, textAlign: align, textBaseline: baseline });
    this.ctx.fillText(words, x, y);
  }

  line(x0, y0, x1, y1, color, dash = [], width = 1) {
    const { ctx } = this;
    Object.assign(ctx, { strokeStyle: color, lineWidth: width });
    ctx.setLineDash(dash);
    ctx.beginPath();
    ctx.moveTo(x0, y0);
    ctx.lineTo(x1, y1);
    ctx.stroke();
    ctx.setLineDash([]);
  }

  dot(x, y, radius, color) {
    this.ctx.fillStyle = color;
    this.ctx.beginPath();
    this.ctx.arc(x, y, radius, 0, 2 * Math.PI);
    this.ctx.fill();
  }

  ring(x, y) {
    Object.assign(this.ctx, { strokeStyle: this.theme.text, lineWidth: 1.5 });
    this.ctx.beginPath();
    this.ctx.arc(x, y, 6.5, 0, 2 * Math.PI);
    this.ctx.stroke();
  }

  yAxis(label, wanted = 4) {
    for (const y of ticks(this.y0, this.y1, wanted)) {
      this.line(this.left, this.py(y), this.right, this.py(y), this.theme.grid);
      this.text(digits(y), this.left - 6, this.py(y), "right", "middle");
    }
    this.ctx.save();
    this.ctx.translate(this.em, (this.top + this.bottom) / 2);
    this.ctx.rotate(-Math.PI / 2);
    this.text(label, 0, 0, "center", "middle", this.theme.text);
    this.ctx.restore();
  }

  xAxis(label, wanted = 5) {
    for (const x of ticks(this.x0, this.x1, wanted)) {
      this.line(this.px(x), this.top, this.px(x), this.bottom, this.theme.grid);
      this.text(digits(x), this.px(x), this.bottom + 5, "center", "top");
    }
    this.xLabel(label);
  }

  xLabel(label) {
    this.text(label, (this.left + this.right) / 2, this.bottom + 5 + 1.4 * this.em, "center", "top",
      this.theme.text);
  }

  nearest(x, y) {
    let best = null;
    let least = 144;
    for (const hit of this.hits) {
      const distance = (hit.x - x) ** 2 + (hit.y - y) ** 2;
      if (distance < least) [best, least] = [hit, distance];
    }
    return best;
  }
}

function genome(axis) {
  const lengths = axis.map(([, first, last]) => Math.max(last - first, 1));
  const total = lengths.reduce((a, b) => a + b, 0);
  const gap = axis.length > 1 ? 0.006 * total : 0;
  const chromosomes = new Map();
  let at = 0;
  axis.forEach(([name, first], i) => {
    chromosomes.set(name, { i, start: at, stop: at + lengths[i], offset: at - first });
    at += lengths[i] + gap;
  });
  return { chromosomes, end: Math.max(at - gap, 1) };
}

function drawManhattan(plot, theme, state, test) {
  if (!plot.begin(theme, { left: 46, right: 96, top: 14, bottom: 36 })) return;
  const { chromosomes, end } = state.genome;
  const points = state.points.filter((p) => p.in & BITS[test]);
  const highest = points.reduce((top, p) => Math.max(top, p[test]), 0);
  plot.scale([-0.004 * end, 1.004 * end], [0, Math.max(8.6, 1.08 * highest)]);
  plot.yAxis("−log₁₀ p");
  if (chromosomes.size === 1) positions(plot, chromosomes, end);
  else chromosomeNames(plot, chromosomes);
  for (const p of points) {
    const c = chromosomes.get(p.chrom);
    if (!c) continue;
    const [x, y] = [plot.px(c.offset + p.pos), plot.py(p[test])];
    const color = p[test] >= GENOME_WIDE ? theme.accent : c.i % 2 ? theme.even : theme.odd;
    plot.dot(x, y, p[test] >= GENOME_WIDE ? 2.6 : 1.8, color);
    plot.hits.push({ x, y, p });
  }
  significance(plot, theme, state.qq[test]);
  mark(plot, state);
}

const short = (name) => name.replace(/^chr(?=.)/i, "");

function chromosomeNames(plot, chromosomes) {
  let free = -Infinity;
  for (const [long, c] of chromosomes) {
    const name = short(long);
    const middle = plot.px((c.start + c.stop) / 2);
    const width = plot.ctx.measureText(name).width;
    if (middle - width / 2 > free) {
      plot.text(name, middle, plot.bottom + 5, "center", "top");
      free = middle + width / 2 + 4;
    }
  }
  plot.xLabel("Chromosome");
}

function positions(plot, chromosomes, end) {
  const [[name, c]] = chromosomes;
  const [unit, scale] = end >= 1e6 ? ["Mb", 1e6] : end >= 1e4 ? ["kb", 1e3] : ["bp", 1];
  for (const at of ticks(-c.offset, end - c.offset, 8)) {
    plot.text(digits(at / scale, 6), plot.px(at + c.offset), plot.bottom + 5, "center", "top");
  }
  plot.xLabel(`Position on chromosome ${short(name)} (${unit})`);
}

function significance(plot, theme, qq) {
  const own = qq && qq.n ? Math.log10(qq.n / 0.05) : null;
  const lines = [[GENOME_WIDE, "5×10⁻⁸", []]];
  if (own && Math.abs(own - GENOME_WIDE) > 0.05) lines.push([own, `0.05/${count(qq.n)}`, [4, 3]]);
  lines.sort((a, b) => a[0] - b[0]);
  let free = plot.bottom;
  for (const [y, label, dash] of lines) {
    plot.line(plot.left, plot.py(y), plot.right, plot.py(y), theme.muted, dash);
    // Beside the plot, where no point is; one label gives way to the other.
    const at = Math.min(plot.py(y), free);
    plot.text(label, plot.right + 6, at, "left", "middle");
    free = at - 1.2 * plot.em;
  }
}

function drawQQ(plot, theme, state, test) {
  if (!plot.begin(theme, { left: 46, right: 10, top: 14, bottom: 36 })) return;
  const qq = state.qq[test] || { expected: [], observed: [] };
  const top = Math.max(1, ...qq.expected) * 1.05;
  plot.scale([0, top], [0, Math.max(top, 1.05 * Math.max(0, ...qq.observed))]);
  plot.yAxis("Observed −log₁₀ p");
  plot.xAxis("Expected −log₁₀ p", 4);
  plot.line(plot.px(0), plot.py(0), plot.px(top), plot.py(top), theme.muted);
  qq.expected.forEach((x, i) => plot.dot(plot.px(x), plot.py(qq.observed[i]), 1.8, theme.odd));
  if (qq.lambda != null) {
    plot.canvas.dataset.lambda = qq.lambda;
    plot.text(`λ GC ${qq.lambda.toFixed(3)}`, plot.left + 6,
      plot.top + 3, "left", "top", theme.text);
  }
}

function drawEffects(plot, theme, state) {
  if (!plot.begin(theme, { left: 60, right: 12, top: 14, bottom: 36 })) return;
  const points = state.points.filter((p) => p.in & BITS.effects && p.var != null);
  const size = (name) => Math.max(1e-9, ...points.map((p) => Math.abs(p[name] || 0))) * 1.08;
  const [x, y] = points.length ? [size("add"), size("var")] : [1, 1];
  plot.scale([-x, x], [-y, y]);
  plot.yAxis("Effect on the log variance (per allele)");
  plot.xAxis(`Effect on the mean (${`${state.unit} per allele`.trim()})`);
  plot.line(plot.px(0), plot.top, plot.px(0), plot.bottom, theme.muted);
  plot.line(plot.left, plot.py(0), plot.right, plot.py(0), theme.muted);
  const best = (p) => Math.max(p.mean, p.variance, p.joint);
  points.sort((a, b) => best(a) - best(b));
  for (const p of points) {
    const hit = { x: plot.px(p.add), y: plot.py(p.var), p };
    const strong = best(p) >= GENOME_WIDE;
    plot.dot(hit.x, hit.y, strong ? 3 : 1.8, strong ? theme.accent : theme.even);
    plot.hits.push(hit);
  }
  mark(plot, state);
}

function mark(plot, state) {
  const hit = state.selected && plot.hits.find(({ p }) => p.id === state.selected.id
    && p.pos === state.selected.pos);
  if (hit) plot.ring(hit.x, hit.y);
  // The highest point, for whoever can't see the picture.
  const top = plot.hits.reduce((a, b) => (a && a.y <= b.y ? a : b), null);
  if (top) Object.assign(plot.canvas.dataset, { id: top.p.id, x: top.x, y: top.y });
  plot.canvas.dataset.points = plot.hits.length;
}

function describe(tip, p) {
  tip.replaceChildren();
  make("b", "", tip, p.id);
  make("div", "", tip, `chromosome ${p.chrom}, position ${count(p.pos)}, MAF ${p.af?.toFixed(3)}`);
  const effect = (name, b, se, y) =>
    make("div", "", tip, `${name}: ${estimate(b, se)}, p = ${pvalue(y)}`);
  effect("effect on mean", p.add, p.add_se, p.mean);
  effect("on log variance", p.var, p.var_se, p.variance);
  make("div", "", tip, `both, 2 df: p = ${pvalue(p.joint)}`);
}

const LOCI = [
  ["Variant", (p) => p.id],
  ["Position", place],
  ["MAF", (p) => p.af?.toFixed(3) ?? "–"],
  ["Mean ± SE", (p) => estimate(p.add, p.add_se)],
  ["p", (p) => pvalue(p.mean)],
  ["Log variance ± SE", (p) => estimate(p.var, p.var_se)],
  ["p", (p) => pvalue(p.variance)],
  ["p, 2 df", (p) => pvalue(p.joint)],
];

function fillLoci(body, state, choose) {
  const leads = rowsOf(state.loci[state.test] || {});
  const chosen = state.selected;
  const same = (a, b) => a && b && a.id === b.id && a.pos === b.pos;
  const rows = !chosen || leads.some((p) => same(p, chosen)) ? leads : [chosen, ...leads];
  body.replaceChildren();
  for (const p of rows) {
    const row = make("tr", "", body);
    if (same(p, chosen)) row.classList.add("hlmm-selected");
    else if (chosen && p.chrom === chosen.chrom && Math.abs(p.pos - chosen.pos) <= LOCUS) {
      row.classList.add("hlmm-locus");
    }
    row.dataset.id = p.id;
    for (const [, cell] of LOCI) make("td", "", row, cell(p));
    row.addEventListener("click", () => choose(p));
  }
  if (!rows.length) make("td", "hlmm-none", make("tr", "", body), "None yet").colSpan = LOCI.length;
}

const MEMORY = (bytes) => `${(bytes / 2 ** 30).toFixed(bytes < 10 * 2 ** 30 ? 2 : 0)} GiB`;

function fillWorkers(section, workers) {
  section.replaceChildren();
  if (!workers.length) return;
  const live = workers.some((w) => w.memory != null);
  make("h4", "", section, live ? `Workers (${workers.length})` : "Blocks by worker");
  const table = make("table", "", make("div", "hlmm-scroll", section));
  const head = make("tr", "", make("thead", "", table));
  const names = ["Worker", ...(live ? ["Memory", "Current block"] : []), "Blocks done", "Last block"];
  for (const name of names) make("th", "", head, name);
  const body = make("tbody", "", table);
  for (const w of workers) {
    const row = make("tr", "", body);
    make("td", "", row, w.name);
    if (live) {
      make("td", "", row, MEMORY(w.memory) + (w.limit ? ` of ${MEMORY(w.limit)}` : ""));
      make("td", "", row, w.current.length ? w.current.join(", ") : "idle");
    }
    make("td", "", row, count(w.blocks));
    make("td", "", row, w.last == null ? "–" : w.last);
  }
}

function fillFailures(section, failures, n) {
  section.replaceChildren();
  if (!failures.length) return;
  make("h4", "hlmm-bad", section, `Failed blocks (${count(n)})`);
  const list = make("ul", "", section);
  for (const f of failures) make("li", "", list, `Block ${f.block}: ${f.error}`);
}

const STATES = {
  waiting: "waiting for the first block", running: "running", finished: "finished",
  stopped: "stopped", cancelling: "being cancelled", cancelled: "cancelled", failed: "failed",
};

function fillProgress(parts, p) {
  const state = p.ended || p.state || "waiting";
  const share = p.n_variants ? p.n_done_variants / p.n_variants : 0;
  parts.title.textContent = [p.model, p.phenotype && `phenotype ${p.phenotype}`,
    p.samples && `${count(p.samples)} samples`].filter(Boolean).join(" · ") || "Scan";
  parts.store.textContent = p.store || "";
  parts.state.textContent = STATES[state] || state;
  parts.state.dataset.state = state;
  parts.fill.style.width = `${100 * share}%`;
  parts.bar.setAttribute("aria-valuenow", Math.floor(100 * share));
  const figures = [
    ["variants", `${count(p.n_done_variants || 0)} of ${count(p.n_variants || 0)}`],
    ["done", `${(Math.floor(1000 * share) / 10).toFixed(1)}%`],
    ["variants/s", p.rate ? count(p.rate) : "–"],
    state === "running" ? ["left", p.left_text || "–"] : ["time", p.elapsed_text || "–"],
    ["blocks", `${count(p.n_done_blocks || 0)} of ${count(p.n_blocks || 0)}`],
    ["failed", count(p.n_failed || 0)],
    ["fitted", count(p.n_fitted || 0)],
  ];
  parts.facts.replaceChildren();
  for (const [name, value] of figures) {
    const item = make("div", name === "failed" && p.n_failed ? "hlmm-bad" : "", parts.facts);
    make("b", "", item, value).dataset.figure = name;
    make("span", "", item, name);
  }
  const behind = (p.n_done_blocks || 0) - (p.n_seen_blocks || 0);
  parts.note.textContent = [
    p.error,
    state === "stopped" && "no living process has this run; --resume goes on with it",
    behind > 1 && `plots lack ${count(behind)} finished blocks`,
  ].filter(Boolean).join("; ");
}

function build(el) {
  const root = make("div", "hlmm", el);
  const head = make("div", "hlmm-head", root);
  const parts = { root, title: make("h3", "", head), state: make("span", "hlmm-state", head) };
  parts.store = make("code", "", head);
  parts.bar = make("div", "hlmm-bar", root);
  parts.bar.setAttribute("role", "progressbar");
  parts.fill = make("div", "", parts.bar);
  parts.facts = make("div", "hlmm-facts", root);
  parts.note = make("div", "hlmm-note", root);
  parts.plots = [];
  for (const [test, , title] of TESTS) {
    const row = make("div", "hlmm-row", root);
    make("h4", "", row, title);
    const lane = make("div", "hlmm-lane", row);
    parts.plots.push([new Plot(lane, `manhattan-${test}`, `Manhattan plot, ${title}`),
      drawManhattan, test]);
    parts.plots.push([new Plot(lane, `qq-${test}`, `QQ plot, ${title}`), drawQQ, test]);
  }
  const lower = make("div", "hlmm-lower", root);
  const left = make("div", "", lower);
  make("h4", "", left, "Effect on variance against effect on mean");
  parts.plots.push([new Plot(left, "effects", "Effects on variance against effects on the mean"),
    drawEffects, null]);
  const right = make("div", "", lower);
  const tabs = make("div", "hlmm-tabs", right);
  make("h4", "", tabs, "Leading loci");
  parts.tabs = TESTS.map(([test, name]) => {
    const button = make("button", "", tabs, name);
    button.dataset.test = test;
    return button;
  });
  const table = make("table", "hlmm-loci", make("div", "hlmm-scroll", right));
  const header = make("tr", "", make("thead", "", table));
  for (const [name] of LOCI) make("th", "", header, name);
  parts.loci = make("tbody", "", table);
  parts.workers = make("div", "hlmm-workers", root);
  parts.failures = make("div", "hlmm-failures", root);
  parts.tip = make("div", "hlmm-tip", root);
  return parts;
}

function render({ model, el }) {
  const parts = build(el);
  const tiles = Array.from({ length: N_TILES }, (_, i) => `tile${String(i).padStart(2, "0")}`);
  const held = Object.fromEntries(tiles.map((name) => [name, rowsOf(model.get(name) || {})]));
  const state = { points: [], qq: {}, loci: {}, test: "mean", selected: null };
  const stale = new Set(["all"]);
  let frame = 0;

  const paint = () => {
    frame = 0;
    const all = stale.has("all");
    const theme = THEMES[parts.root.classList.contains("hlmm-dark") ? "dark" : "light"];
    const progress = model.get("progress") || {};
    if (all || stale.has("progress")) fillProgress(parts, progress);
    if (all || stale.has("workers")) fillWorkers(parts.workers, rowsList(model.get("workers")));
    if (all || stale.has("failures")) {
      fillFailures(parts.failures, rowsList(model.get("failures")), progress.n_failed || 0);
    }
    if (all || stale.has("plots")) {
      state.points = tiles.flatMap((name) => held[name]);
      state.genome = genome(rowsList(model.get("axis")));
      state.qq = model.get("qq") || {};
      state.unit = progress.unit || "";
      for (const [plot, draw, test] of parts.plots) draw(plot, theme, state, test);
    }
    if (all || stale.has("loci")) {
      state.loci = model.get("loci") || {};
      for (const b of parts.tabs) b.setAttribute("aria-pressed", b.dataset.test === state.test);
      fillLoci(parts.loci, state, choose);
    }
    stale.clear();
  };
  const repaint = (what) => {
    stale.add(what);
    frame = frame || requestAnimationFrame(paint);
  };
  const choose = (p, test) => {
    state.selected = p;
    state.test = test ?? state.test;
    model.set("selected", p);
    model.save_changes();
    repaint("plots");
    repaint("loci");
  };

  for (const name of tiles) {
    model.on(`change:${name}`, () => {
      held[name] = rowsOf(model.get(name) || {});
      repaint("plots");
    });
  }
  for (const name of ["progress", "workers", "failures", "loci"]) {
    model.on(`change:${name}`, () => repaint(name));
  }
  for (const name of ["axis", "qq"]) model.on(`change:${name}`, () => repaint("plots"));
  for (const button of parts.tabs) {
    button.addEventListener("click", () => {
      state.test = button.dataset.test;
      repaint("loci");
    });
  }
  for (const [plot, , test] of parts.plots) watchPointer(plot, parts, (p) => choose(p, test));

  const retheme = () => {
    parts.root.classList.toggle("hlmm-dark", isDark(el));
    repaint("all");
  };
  const size = new ResizeObserver(retheme);
  size.observe(parts.root);
  const look = new MutationObserver(retheme);
  look.observe(document.body, { attributes: true });
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", retheme);
  return () => {
    size.disconnect();
    look.disconnect();
    scheme.removeEventListener("change", retheme);
    cancelAnimationFrame(frame);
  };
}

const rowsList = (value) => (Array.isArray(value) ? value : []);

function watchPointer(plot, parts, choose) {
  const { canvas } = plot;
  const at = (event) => plot.nearest(event.offsetX, event.offsetY);
  canvas.addEventListener("mousemove", (event) => {
    const hit = at(event);
    canvas.style.cursor = hit ? "pointer" : "default";
    parts.tip.classList.toggle("hlmm-shown", Boolean(hit));
    if (!hit) return;
    describe(parts.tip, hit.p);
    const outer = parts.root.getBoundingClientRect();
    const inner = canvas.getBoundingClientRect();
    const x = inner.left - outer.left + hit.x;
    const left = x + 14 + parts.tip.offsetWidth > outer.width ? x - 14 - parts.tip.offsetWidth : x + 14;
    parts.tip.style.left = `${Math.max(0, left)}px`;
    parts.tip.style.top = `${inner.top - outer.top + hit.y - 10}px`;
  });
  canvas.addEventListener("mouseleave", () => parts.tip.classList.remove("hlmm-shown"));
  canvas.addEventListener("click", (event) => {
    const hit = at(event);
    if (hit) choose(hit.p);
  });
}

export default { render };
