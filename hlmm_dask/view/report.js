"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const kinds = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array, f8: Float64Array };
  const unpack = ([kind, text]) => {
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return new kinds[kind](bytes.buffer);
  };
  const points = {};
  for (const [name, column] of Object.entries(data.points)) points[name] = unpack(column);
  const ids = data.ids, contigs = data.contigs, length = data.length;
  const x = new Float64Array(ids.length);
  for (let i = 0; i < x.length; i++) x[i] = contigs[points.contig[i]].offset + points.position[i];

  const tip = document.querySelector(".tip");
  const fixed = (v, n) => Number.isFinite(v) ? v.toFixed(n).replace("-", "−") : "–";
  const digits = (v) => Number.isFinite(v) ? v.toPrecision(3).replace("-", "−") : "–";
  const plain = (v) => String(+v.toPrecision(6)).replace("-", "−");
  const short = (name) => name.replace(/^chr(?=.)/i, "");
  const describe = (i) => [
    [ids[i]],
    [`chr ${short(contigs[points.contig[i]].name)}: ${points.position[i].toLocaleString("en")}`],
    [`mean ${digits(points.add[i])}${
      Number.isNaN(points.var[i]) ? "" : `, log variance ${digits(points.var[i])}`} per allele`],
    ["−log₁₀ p: " + data.tests.map((t) => `${t.short} ${fixed(points[t.name][i], 2)}`).join(", ")],
    [`MAF ${digits(points.maf[i])}`],
  ].flat();
  const showTip = (lines, event) => {
    tip.replaceChildren(...lines.map((line, k) => {
      const row = document.createElement(k ? "div" : "strong");
      row.textContent = line;
      return row;
    }));
    tip.style.display = "block";
    const box = tip.getBoundingClientRect();
    const left = event.clientX + 14 + box.width > innerWidth ? event.clientX - box.width - 14 : event.clientX + 14;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - box.height - 4)}px`;
  };
  const hideTip = () => { tip.style.display = "none"; };

  // Round steps for an axis.
  const ticks = (low, high, n) => {
    const raw = (high - low) / n, unit = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((k) => k * unit).find((s) => s >= raw);
    const out = [];
    for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k++) out.push(k * step);
    return out;
  };

  const plots = [];
  let selected = -1;

  class Plot {
    constructor(box, spec) {
      Object.assign(this, spec);
      this.box = box;
      this.canvas = document.createElement("canvas");
      this.canvas.setAttribute("role", "img");
      this.canvas.setAttribute("aria-label", box.dataset.label);
      box.append(this.canvas);
      this.canvas.addEventListener("mousemove", (e) => {
        const k = this.nearest(e.offsetX, e.offsetY);
        this.canvas.style.cursor = k < 0 || !this.rows ? "default" : "pointer";
        if (k < 0) hideTip(); else showTip(this.about(k), e);
      });
      this.canvas.addEventListener("mouseleave", hideTip);
      this.canvas.addEventListener("click", (e) => {
        const k = this.nearest(e.offsetX, e.offsetY);
        if (k >= 0 && this.rows) select(this.rows[k]);
      });
      plots.push(this);
      this.draw();
      new ResizeObserver(() => this.draw()).observe(box);
    }

    place() {
      const w = this.box.clientWidth, h = this.box.clientHeight;
      const [x0, x1, y0, y1] = this.range;
      const left = 60, right = 10, top = 10, bottom = 40;
      this.area = [left, top, w - right, h - bottom];
      this.px = (v) => left + (v - x0) / (x1 - x0) * (w - left - right);
      this.py = (v) => h - bottom - (v - y0) / (y1 - y0) * (h - top - bottom);
    }

    nearest(mx, my) {
      let best = 144, found = -1;
      for (let k = 0; k < this.xs.length; k++) {
        const dx = this.sx[k] - mx;
        if (dx > 12 || dx < -12) continue;
        const dy = this.sy[k] - my, d = dx * dx + dy * dy;
        if (d < best) { best = d; found = k; }
      }
      return found;
    }

    draw() {
      const w = this.box.clientWidth, h = this.box.clientHeight, dpr = devicePixelRatio || 1;
      if (!w || !h) return;
      this.canvas.width = Math.round(w * dpr);
      this.canvas.height = Math.round(h * dpr);
      const c = this.canvas.getContext("2d"), css = getComputedStyle(document.documentElement);
      const colour = (name) => css.getPropertyValue(`--${name}`).trim();
      c.scale(dpr, dpr);
      c.font = "12px system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif";
      this.place();
      const [left, top, right, bottom] = this.area;
      const line = (xa, ya, xb, yb, stroke, dash = [], width = 1) => {
        c.strokeStyle = colour(stroke); c.lineWidth = width; c.setLineDash(dash);
        c.beginPath(); c.moveTo(xa, ya); c.lineTo(xb, yb); c.stroke(); c.setLineDash([]);
      };
      const write = (text, tx, ty, align, fill = "muted", base = "middle") => {
        c.fillStyle = colour(fill); c.textAlign = align; c.textBaseline = base; c.fillText(text, tx, ty);
      };
      for (const v of ticks(this.range[2], this.range[3], Math.max(3, (bottom - top) / 55))) {
        line(left, this.py(v), right, this.py(v), "grid");
        write(plain(v), left - 6, this.py(v), "right");
      }
      if (this.axis) {
        let free = -Infinity;
        for (const each of this.axis) {
          const half = c.measureText(each.label).width / 2 + 3, at = this.px(each.at);
          if (at - half < free) continue;
          write(each.label, at, bottom + 12, "center");
          free = at + half;
        }
      } else {
        for (const v of ticks(this.range[0], this.range[1], Math.max(4, (right - left) / 90)))
          write(plain(v), this.px(v), bottom + 12, "center");
      }
      line(left, bottom, right, bottom, "muted");
      line(left, top, left, bottom, "muted");
      write(this.xlabel, (left + right) / 2, bottom + 30, "center", "text");
      c.save(); c.translate(11, (top + bottom) / 2); c.rotate(-Math.PI / 2);
      write(this.ylabel, 0, 0, "center", "text"); c.restore();
      c.save(); c.beginPath(); c.rect(left - 4, top - 6, right - left + 8, bottom - top + 10); c.clip();
      const pen = { c, colour, line, write, px: this.px, py: this.py, left, right, top, bottom };
      if (this.under) this.under(pen);
      this.sx = new Float32Array(this.xs.length);
      this.sy = new Float32Array(this.xs.length);
      for (const group of this.groups) {
        c.fillStyle = colour(group.colour); c.globalAlpha = this.alpha || 1;
        const r = group.radius || 1.6;
        for (const k of group.members) {
          const a = this.sx[k] = this.px(this.xs[k]), b = this.sy[k] = this.py(this.ys[k]);
          if (group.round) { c.beginPath(); c.arc(a, b, r, 0, 6.3); c.fill(); }
          else c.fillRect(a - r, b - r, 2 * r, 2 * r);
        }
        c.globalAlpha = 1;
      }
      if (this.over) this.over(pen);
      if (this.rows && selected >= 0) {
        const k = this.rows.indexOf(selected);
        if (k >= 0) {
          c.strokeStyle = colour("text"); c.lineWidth = 2; c.beginPath();
          c.arc(this.sx[k], this.sy[k], 6.5, 0, 6.3); c.stroke();
        }
      }
      c.restore();
    }
  }

  const select = (row) => {
    selected = row;
    for (const tr of document.querySelectorAll("tr[data-point]"))
      tr.setAttribute("aria-selected", String(Number(tr.dataset.point) === row));
    const first = document.querySelector("tr[aria-selected=true]");
    if (first && !document.activeElement.matches("tr")) {
      const box = first.closest(".scroll");
      box.scrollTop = first.offsetTop - box.clientHeight / 2;
    }
    for (const plot of plots) plot.draw();
  };
  const thresholdLines = (lines) => ({ c, colour, line, write, right, py }) => {
    lines.forEach(([label, height], i) => {
      const y = py(height), up = i > 0;
      line(0, y, right, y, "muted", up ? [6, 4] : [2, 3]);
      c.font = "11px system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif";
      const width = c.measureText(label).width + 6;
      c.globalAlpha = 0.8; c.fillStyle = colour("card");
      c.fillRect(right - width, up ? y - 16 : y + 2, width, 14); c.globalAlpha = 1;
      write(label, right - 3, up ? y - 9 : y + 9, "right");
    });
  };
  const chosen = (bit) => {
    const rows = [];
    for (let i = 0; i < ids.length; i++) if (points.flags[i] & bit) rows.push(i);
    return rows;
  };
  const hit = data.genome_wide;

  const manhattan = (box, t) => {
    const test = data.tests[t], rows = chosen(1 << t), ys = rows.map((i) => points[test.name][i]);
    const members = [[], [], []];
    rows.forEach((i, k) => members[ys[k] >= hit ? 2 : points.contig[i] % 2].push(k));
    const one = contigs.length === 1, unit = length >= 1e6 ? ["Mb", 1e6] : length >= 1e4 ? ["kb", 1e3] : ["bp", 1];
    const top = 1.1 * test.lines.reduce((a, l) => Math.max(a, l[1]), ys.reduce((a, y) => Math.max(a, y), 1));
    const margin = 0.008 * length || 1;
    const axis = one
      ? ticks(contigs[0].first, contigs[0].first + length || 1, 8).map((v) => ({ at: v + contigs[0].offset, label: plain(v / unit[1]) }))
      : contigs.map((each) => ({ at: each.middle, label: short(each.name) }));
    const lines = thresholdLines(test.lines);
    new Plot(box, {
      rows, xs: rows.map((i) => x[i]), ys, axis, range: [-margin, length + margin, 0, top],
      xlabel: one ? `Position on chromosome ${short(contigs[0].name)} (${unit[0]})` : "Chromosome", ylabel: "−log₁₀ p",
      groups: ["odd", "even", "accent"].map((colour, g) => ({ colour, members: members[g], radius: g === 2 ? 2.4 : 1.5, round: g === 2 || rows.length < 5000 })),
      about: (k) => describe(rows[k]),
      over: lines,
    });
  };

  const qq = (box, t) => {
    const test = data.tests[t], xs = [], ys = [], groups = [], names = [];
    for (const each of test.qq) {
      const members = [];
      each.expected.forEach((e, k) => {
        members.push(xs.length); xs.push(e); ys.push(each.observed[k]); names.push(each.label);
      });
      groups.push({ colour: each.colour, members, radius: 2, round: true });
    }
    const right = 1.04 * xs.reduce((a, v) => Math.max(a, v), 0.5);
    const top = 1.06 * ys.reduce((a, v) => Math.max(a, v), right);
    new Plot(box, {
      xs, ys, groups, range: [0, right, 0, top], xlabel: "Expected −log₁₀ p", ylabel: "Observed −log₁₀ p",
      about: (k) => [names[k], `expected ${fixed(xs[k], 2)}, observed ${fixed(ys[k], 2)}`],
      under: ({ c, colour, line, px, py }) => {
        const b = test.band;
        c.fillStyle = colour("muted"); c.globalAlpha = 0.2; c.beginPath();
        b.expected.forEach((e, k) => c.lineTo(px(e), py(b.high[k])));
        for (let k = b.expected.length - 1; k >= 0; k--) c.lineTo(px(b.expected[k]), py(b.low[k]));
        c.fill(); c.globalAlpha = 1;
        line(px(0), py(0), px(right), py(right), "muted");
      },
    });
  };

  const effects = (box) => {
    const rows = chosen(128), xs = rows.map((i) => points.add[i]), ys = rows.map((i) => points.var[i]);
    const best = (i) => data.tests.reduce((a, t) => Math.max(a, points[t.name][i] || 0), 0);
    const members = [[], []];
    rows.forEach((i, k) => members[best(i) >= hit ? 1 : 0].push(k));
    const reach = (values) => 1.08 * values.reduce((a, v) => Math.max(a, Math.abs(v)), 1e-9);
    const rx = reach(xs), ry = reach(ys);
    new Plot(box, {
      rows, xs, ys, alpha: 0.75, range: [-rx, rx, -ry, ry],
      xlabel: `Effect on the mean (${data.unit} per allele)`, ylabel: "Effect on the log variance (per allele)",
      groups: [{ colour: "even", members: members[0], radius: 2, round: true }, { colour: "accent", members: members[1], radius: 2.6, round: true }],
      about: (k) => describe(rows[k]),
      under: ({ line, px, py, left, right, top, bottom }) => {
        line(left, py(0), right, py(0), "muted"); line(px(0), top, px(0), bottom, "muted");
      },
      over: ({ c, colour, line, px, py }) => {
        if (data.slope_se !== null) {
          const high = data.slope + 1.96 * data.slope_se, low = data.slope - 1.96 * data.slope_se;
          c.fillStyle = colour("fit"); c.globalAlpha = 0.2; c.beginPath();
          for (const [at, slope] of [[-rx, low], [rx, low], [rx, high], [-rx, high]])
            c.lineTo(px(at), py(at * slope));
          c.fill(); c.globalAlpha = 1;
        }
        if (data.slope !== null)
          line(px(-rx), py(-rx * data.slope), px(rx), py(rx * data.slope), "fit", [], 2);
      },
    });
  };

  for (const box of document.querySelectorAll(".plot")) {
    const t = Number(box.dataset.test);
    ({ manhattan, qq, effects })[box.dataset.kind](box, t);
  }
  for (const tr of document.querySelectorAll("tr[data-point]")) {
    tr.addEventListener("click", () => select(Number(tr.dataset.point)));
    tr.addEventListener("focus", () => select(Number(tr.dataset.point)));
    tr.addEventListener("keydown", (e) => {
      const to = { ArrowDown: tr.nextElementSibling, ArrowUp: tr.previousElementSibling }[e.key];
      if (to) { to.focus(); e.preventDefault(); }
    });
  }
  const again = () => plots.forEach((plot) => plot.draw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  document.documentElement.dataset.ready = "1";
})();
