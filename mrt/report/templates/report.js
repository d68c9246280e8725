"use strict";
// Everything that models wrote is put on the page as text nodes, never as markup.
(() => {
  const byId = (id) => document.getElementById(id);
  const { arms, baseline, problems } = JSON.parse(byId("traces").textContent);
  const title = document.title;
  const GLYPHS = { correct: "✓", wrong: "✗", unparsed: "?", truncated: "…", timeout: "◷", error: "!" };
  const glyph = (verdict) => (Object.hasOwn(GLYPHS, verdict) ? GLYPHS[verdict] : "·");
  const known = (value) => typeof value === "number";
  const fixed = (value, digits = 2) => value.toFixed(digits).replace("-", "−");
  const signed = (value) => (value < 0 ? "" : "+") + fixed(value);
  const plain = (value) => (typeof value === "string" ? value : JSON.stringify(value));

  function el(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }
  function svg(name, attributes, ...children) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  const chip = (arm, text) => el("span", { class: "chip", title: arm.name }, el("i", { class: "arm-" + arm.colour }), text ?? arm.name);
  const address = (problem) => "#problem=" + encodeURIComponent(problem.key);

  // Axis switches ----------------------------------------------------------------------------------------------------
  for (const button of document.querySelectorAll(".switch button")) {
    button.addEventListener("click", () => {
      const group = button.parentElement;
      for (const other of group.children) other.setAttribute("aria-pressed", String(other === button));
      for (const plot of document.querySelectorAll(`[data-of="${group.dataset.switch}"]`)) {
        plot.hidden = plot.dataset.is !== button.dataset.view;
      }
    });
  }
  if (!problems.length) return;

  // The list ---------------------------------------------------------------------------------------------------------
  for (const problem of problems) {
    problem.prompt = plain(problem.prompt ?? "");
    problem.tally = problem.samples.map((samples) => {
      const scored = samples.filter((sample) => sample.verdict !== "timeout" && sample.verdict !== "error");
      const right = scored.filter((sample) => sample.verdict === "correct").length;
      return { right, of: scored.length, rate: scored.length ? right / scored.length : NaN };
    });
    problem.verdicts = new Set(problem.samples.flat().map((sample) => sample.verdict));
    problem.haystack = `${problem.key}\n${problem.prompt}`.toLowerCase();
  }
  const filters = [{ label: "all problems", keep: () => true }];
  const home = Math.max(0, arms.findIndex((arm) => arm.name === baseline));
  for (let one = 0; one < arms.length; one++) {
    for (let two = 0; two < one; two++) {
      if (arms.length > 4 && one !== home && two !== home) continue;
      const [a, b] = two === home || one !== home ? [one, two] : [two, one];
      const group = `${arms[a].name} against ${arms[b].name}`;
      const change = (problem) => problem.tally[a].rate - problem.tally[b].rate;
      filters.push({ group, label: `gained by ${arms[a].name}`, keep: (p) => change(p) > 0, order: (p, q) => change(q) - change(p) });
      filters.push({ group, label: `lost by ${arms[a].name}`, keep: (p) => change(p) < 0, order: (p, q) => change(p) - change(q) });
      filters.push({ group, label: "no change", keep: (p) => change(p) === 0 });
    }
  }
  filters.push({ group: "Every arm", label: "always right", keep: (p) => p.tally.every((tally) => tally.rate === 1) });
  filters.push({ group: "Every arm", label: "never right", keep: (p) => p.tally.every((tally) => !tally.right) });
  for (const verdict of new Set(problems.flatMap((problem) => [...problem.verdicts]))) {
    filters.push({ group: "A verdict occurs", label: verdict, keep: (p) => p.verdicts.has(verdict) });
  }
  const [list, search, filter] = [byId("list"), byId("search"), byId("filter")];
  const groups = new Map();
  filters.forEach(({ group, label, keep }, place) => {
    if (group && !groups.has(group)) groups.set(group, filter.appendChild(el("optgroup", { label: group })));
    (groups.get(group) ?? filter).append(el("option", { value: place }, `${label} (${problems.filter(keep).length})`));
  });
  let shown = problems;
  function refresh() {
    const { keep, order } = filters[Number(filter.value)];
    const wanted = search.value.trim().toLowerCase();
    shown = problems.filter((problem) => keep(problem) && problem.haystack.includes(wanted));
    if (order) shown.sort(order);
    byId("count").textContent = `${shown.length} of ${problems.length}`;
    list.replaceChildren(...shown.map((problem) => el("li", {}, el("a", { href: address(problem) },
      el("code", {}, problem.key),
      el("span", { class: "prompt" }, problem.prompt.slice(0, 200)),
      el("span", { class: "rates" }, ...problem.tally.map((tally, place) => chip(arms[place], tally.of ? `${tally.right}/${tally.of}` : "–")))))));
  }
  search.addEventListener("input", refresh);
  filter.addEventListener("change", refresh);
  refresh();

  // One problem ------------------------------------------------------------------------------------------------------
  const page = byId("problem");
  let current = null;
  let picked = [];

  /** J over thinking tokens: a right-continuous step, its standard error as a band, forced answers along the foot. */
  function curve(sample, arm) {
    const [J, se] = [sample.J ?? [], sample.se ?? []];
    const ends = [0, ...(sample.episodes ?? []).map((episode) => episode[2])];
    const points = J.map((value, place) => [ends[place], value, se[place] ?? 0]).filter(([x, y]) => known(x) && known(y));
    const forced = (sample.forced ?? []).filter(([budget]) => known(budget));
    const last = Math.max(1, sample.thinking ?? 0, ...points.map((point) => point[0]));
    const span = last * 1.05; // room to see the last value
    if (!points.length) return null;
    const [width, height, left, foot] = [360, 108, 26, 30];
    const X = (x) => left + (Math.min(x, span) / span) * (width - left - 8);
    const Y = (y) => 6 + (1 - Math.max(0, Math.min(1, y))) * (height - foot - 6);
    const walk = (of) => points.map((point, place) => {
      const until = place + 1 < points.length ? points[place + 1][0] : span;
      return [[X(point[0]), Y(of(point))], [X(until), Y(of(point))]];
    }).flat().map((pair) => pair.map((value) => value.toFixed(1)).join(" "));
    const upper = walk((point) => point[1] + point[2]);
    const lower = walk((point) => point[1] - point[2]).reverse();
    const marks = forced.filter(([budget]) => budget <= last).map(([budget, , verdict]) =>
      svg("circle", { cx: X(budget), cy: height - foot + 9, r: 3, class: verdict === "correct" ? "hit" : "" },
        svg("title", {}, `forced at ${budget}: ${verdict}`)));
    const node = svg("svg", { class: `curve arm-${arm.colour}`, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "J over thinking tokens" },
      ...[0, 0.5, 1].flatMap((y) => [svg("line", { x1: left, x2: width - 8, y1: Y(y), y2: Y(y) }),
        svg("text", { x: left - 6, y: Y(y) + 3, "text-anchor": "end" }, String(y))]),
      svg("path", { class: "band", d: `M${[...upper, ...lower].join("L")}Z` }),
      svg("path", { d: "M" + walk((point) => point[1]).join("L") }), ...marks,
      svg("text", { x: left, y: height - 2 }, "J over tokens; dots: answers forced, filled: right"),
      svg("text", { x: X(last), y: height - 2, "text-anchor": "end" }, String(last)));
    return node;
  }

  function block(kind, gutter, text, depth = 0) {
    const node = el("div", { class: "episode " + kind }, el("div", { class: "gutter" }, ...gutter), el("div", { class: "text" }, text));
    node.style.setProperty("--depth", depth.toFixed(3));
    return node;
  }

  function level(J, se, place) {
    const value = known(J[place]) ? fixed(J[place]) : "–";
    const error = known(J[place]) && known(se[place]) ? ` ± ${fixed(se[place])}` : "";
    return el("span", {}, "J", el("sub", {}, String(place)), " ", el("b", {}, value), error);
  }

  function trace(sample, arm) {
    const [J, se, episodes] = [sample.J ?? [], sample.se ?? [], sample.episodes ?? []];
    const blocks = episodes.map(([text, tokens], place) => {
      const gutter = [level(J, se, place + 1)];
      const change = known(J[place + 1]) && known(J[place]) ? J[place + 1] - J[place] : NaN;
      const sign = change > 0 ? "up" : change < 0 ? "down" : "flat";
      const noise = Math.abs(change) < Math.hypot(se[place] ?? 0, se[place + 1] ?? 0);
      if (!Number.isNaN(change)) gutter.push(el("span", { class: "change" }, `${{ up: "▲", down: "▼", flat: "=" }[sign]} ${signed(change)}`));
      if (known(tokens)) gutter.push(el("span", {}, `${tokens} tokens`));
      const depth = noise || sign === "flat" ? 0 : Math.min(0.22, 0.04 + Math.abs(change) * 0.4);
      return block(sign + (noise ? " noise" : ""), gutter, text.replace(/^\n+|\n+$/g, ""), depth);
    });
    if (known(J[0])) blocks.unshift(block("flat start", [level(J, se, 0)], "before any thinking"));
    if (sample.thought) blocks.push(block("flat", ["not segmented"], plain(sample.thought)));
    blocks.push(block("answer", ["answer"], plain(sample.answer ?? "(none)")));
    const forced = (sample.forced ?? []).map(([budget, answer, verdict]) => el("tr", budget > sample.thinking ? { class: "past", title: "the trace had ended by itself" } : {},
      el("td", {}, known(budget) ? String(budget) : "–"), el("td", { title: verdict }, `${glyph(verdict)} ${verdict}`),
      el("td", {}, el("code", {}, plain(answer ?? "")))));
    return [
      el("p", {}, el("span", { class: "badge v-" + sample.verdict }, `${glyph(sample.verdict)} ${sample.verdict}`),
        ` · ${sample.thinking ?? "–"} thinking tokens, ${sample.tokens ?? "–"} in all${sample.cut ? " · cut off at the limit" : ""}`),
      curve(sample, arm), ...blocks,
      forced.length ? el("details", { open: "" }, el("summary", {}, "Answers forced at the budgets"), el("table", { class: "forced" },
        el("thead", {}, el("tr", {}, el("th", {}, "budget"), el("th", {}, "verdict"), el("th", {}, "answer"))), el("tbody", {}, ...forced))) : null,
    ].filter(Boolean);
  }

  function card(problem, place) {
    const [arm, samples] = [arms[place], problem.samples[place]];
    const number = Math.min(picked[place] ?? 0, samples.length - 1);
    const buttons = samples.map((sample, index) => {
      const button = el("button", { "aria-pressed": String(index === number), title: `sample ${index + 1}: ${sample.verdict}` }, `${index + 1} ${glyph(sample.verdict)}`);
      button.addEventListener("click", () => { picked[place] = index; open(problem); });
      return button;
    });
    return el("article", { class: "card" }, el("header", {}, chip(arm), el("span", { class: "pick", role: "group", "aria-label": "Sample" }, ...buttons)),
      ...(samples.length ? trace(samples[number], arm) : [el("p", {}, "no sample of this problem")]));
  }

  function open(problem) {
    current = problem;
    if (!shown.includes(problem)) shown = problems;
    const place = shown.indexOf(problem);
    const step = (by, text) => shown[place + by] ? el("a", { href: address(shown[place + by]) }, text) : el("span", { style: "flex:none;opacity:.5" }, text);
    const facts = problem.data && typeof problem.data === "object" ? Object.entries(problem.data) : [];
    page.replaceChildren(
      el("div", { class: "top" }, el("a", { href: "#problems" }, "← all problems"), el("span", {}, `${place + 1} of ${shown.length}`), step(-1, "‹ previous"), step(1, "next ›")),
      el("h1", {}, problem.key),
      el("pre", { class: "ask" }, problem.prompt || "(no prompt stored)"),
      el("p", { class: "facts" }, ...facts.map(([name, value]) => el("span", {}, name + " ", el("code", {}, plain(value))))),
      el("div", { class: "arms" }, ...arms.map((_, index) => card(problem, index))),
      el("p", { class: "note keys" }, el("kbd", {}, "←"), " ", el("kbd", {}, "→"), " previous, next problem · ", el("kbd", {}, "s"), " next sample · ", el("kbd", {}, "Esc"), " back to the list"),
      el("p", { class: "note" }, "J after an episode is the chance of a right answer if thinking stopped there, ± its standard error. Teal ▲ raised it, purple ▼ lowered it, a dashed edge is a change below its standard error. Grey budgets lie beyond the trace's own end."));
    document.title = `${problem.key} · ${title}`;
  }

  // Deep links and keys ----------------------------------------------------------------------------------------------
  let scrolled = 0;
  function route() {
    const match = location.hash.match(/^#problem=(.*)$/s);
    if (!match) {
      const back = current;
      [current, page.hidden, byId("report").hidden, document.title] = [null, true, false, title];
      if (back) window.scrollTo(0, scrolled);
      return;
    }
    let key = match[1];
    try { key = decodeURIComponent(key); } catch { /* not encoded: taken as it stands */ }
    if (!current) scrolled = window.scrollY;
    const problem = problems.find((candidate) => candidate.key === key);
    if (problem !== current) picked = [];
    [page.hidden, byId("report").hidden] = [false, true];
    if (problem) open(problem);
    else page.replaceChildren(el("div", { class: "top" }, el("a", { href: "#problems" }, "← all problems")), el("h1", {}, key), el("p", {}, "The traces of this problem are not stored in this report."));
    window.scrollTo(0, 0);
  }
  window.addEventListener("hashchange", route);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (!current) {
      if (event.key === "/") { event.preventDefault(); search.focus(); }
      return;
    }
    const by = { ArrowRight: 1, j: 1, ArrowLeft: -1, k: -1 }[event.key];
    const target = by && shown[shown.indexOf(current) + by];
    if (target) location.hash = address(target);
    if (event.key === "Escape") location.hash = "#problems";
    if (event.key === "s") { arms.forEach((_, place) => { picked[place] = ((picked[place] ?? 0) + 1) % Math.max(1, current.samples[place].length); }); open(current); }
  });
  route();
})();
