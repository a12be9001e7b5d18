"use strict";
// Values of marks under the pointer or by the arrow keys, and series that are hidden, from what each SVG tells
// of itself. Without a script the figure stands as it is.
(() => {
  const MANY = 12;  // series from which on their buttons are folded
  const NEAR = 14;  // points of the SVG between the pointer and a mark that it means

  function read(svg) {
    const told = svg.querySelector("metadata");
    if (!told) return null;
    const { legend, panels } = JSON.parse(told.textContent);
    const marks = panels.flatMap((panel) => panel.series.flatMap((series) =>
      Array.from({ length: series.places.length / 2 }, (_, place) => ({
        panel, series, x: series.places[2 * place], y: series.places[2 * place + 1], place,
        wide: series.halves?.[2 * place] ?? 0, high: series.halves?.[2 * place + 1] ?? 0,
      }))));
    return { legend, panels, marks };
  }

  function words({ panel, series, place }) {
    const called = (name, value) => (name ? `${name}: ${value}` : value);
    const [x, y] = [series.xs, series.ys].map((all) => (Array.isArray(all) ? all[place] : all));
    const head = [panel.title, series.name].filter(Boolean).join(" · ");
    if (series.values) return [`${y} · ${x}`, series.values[place], head];
    if (!panel.y) return [[y, head].filter(Boolean).join(" · "), called(panel.x, x)];
    return [head, called(panel.x, x), called(panel.y, y)];
  }

  // What a series looks like: its marker, or a dot, in its colour.
  function swatch(colour, shape) {
    const space = "http://www.w3.org/2000/svg";
    const found = document.createElementNS(space, "svg");
    found.setAttribute("viewBox", "-0.6 -0.6 1.2 1.2");
    found.setAttribute("aria-hidden", "true");
    const drawn = document.createElementNS(space, shape ? "polygon" : "circle");
    if (shape) drawn.setAttribute("points", shape);
    else drawn.setAttribute("r", "0.5");
    if (colour) drawn.setAttribute("fill", colour);
    found.append(drawn);
    return found;
  }

  function furnished(figure, svg) {
    const chart = read(svg);
    if (!chart) return;
    const hidden = new Set();
    const seen = (mark) => !mark.series.of.some((entry) => hidden.has(entry));

    const tip = document.createElement("div");
    tip.className = "tip";
    tip.setAttribute("role", "status");
    figure.append(tip);
    const ring = document.createElementNS(svg.namespaceURI, "circle");
    ring.setAttribute("class", "ring");
    ring.setAttribute("r", "6");
    let current = null;

    function show(mark) {
      current = mark;
      if (!mark) {
        tip.textContent = "";
        ring.remove();
        return;
      }
      const [first, ...rest] = words(mark).filter(Boolean);
      const head = document.createElement("b");
      head.textContent = first;
      tip.replaceChildren(head, ...rest.flatMap((line) => [document.createElement("br"), line]));
      ring.setAttribute("cx", mark.x);
      ring.setAttribute("cy", mark.y);
      svg.append(ring);
      const at = new DOMPoint(mark.x, mark.y).matrixTransform(svg.getScreenCTM());
      const frame = figure.getBoundingClientRect();
      const left = Math.min(Math.max(at.x - frame.left - tip.offsetWidth / 2, 0), Math.max(frame.width - tip.offsetWidth, 0));
      const above = at.y - frame.top - tip.offsetHeight - 12;
      tip.style.left = `${left}px`;
      tip.style.top = `${above > 0 ? above : at.y - frame.top + 14}px`;
    }

    function nearest(event) {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      let best = null, least = Infinity;
      for (const mark of chart.marks) {
        const [left, top, right, bottom] = mark.panel.box;
        if (at.x < left - NEAR || at.x > right + NEAR || at.y < top - NEAR || at.y > bottom + NEAR || !seen(mark)) continue;
        // Within a bar the pointer means it, unless a point is as near as can be.
        const distance = (mark.wide ? 2 : 0) + Math.hypot(
          Math.max(Math.abs(mark.x - at.x) - mark.wide, 0), Math.max(Math.abs(mark.y - at.y) - mark.high, 0));
        if (distance < least) [best, least] = [mark, distance];
      }
      return best && (best.panel.cells || least <= NEAR) ? best : null;
    }

    svg.addEventListener("pointermove", (event) => show(nearest(event)));
    svg.addEventListener("pointerdown", (event) => show(nearest(event)));
    svg.addEventListener("pointerleave", () => { if (document.activeElement !== svg) show(null); });
    svg.addEventListener("blur", () => show(null));
    svg.addEventListener("keydown", (event) => {
      const there = chart.marks.filter(seen);
      const place = there.indexOf(current);
      const to = { ArrowRight: place + 1, ArrowLeft: place < 0 ? there.length - 1 : place - 1, Home: 0, End: there.length - 1 }[event.key];
      if (event.key === "Escape") show(null);
      else if (to !== undefined && there.length) {
        event.preventDefault();
        show(there[Math.min(Math.max(to, 0), there.length - 1)]);
      }
    });
    if (chart.marks.length) {
      svg.tabIndex = 0;
      svg.setAttribute("aria-label", `${svg.getAttribute("aria-label")} Its values are read with the arrow keys.`);
    }

    // A button for each entry of the legend of which something can be hidden.
    const parts = new Map();
    for (const part of svg.querySelectorAll("[data-of]")) {
      for (const entry of part.dataset.of.split(" ")) parts.set(+entry, [...(parts.get(+entry) ?? []), part]);
    }
    if (parts.size < 2) return;
    const list = document.createElement("div");
    list.className = "series";
    list.setAttribute("role", "group");
    list.setAttribute("aria-label", "Series shown");
    for (const entry of [...parts.keys()].sort((a, b) => a - b)) {
      const { label, colour, shape } = chart.legend[entry];
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      button.append(swatch(colour, shape), label);
      button.addEventListener("click", () => {
        hidden.has(entry) ? hidden.delete(entry) : hidden.add(entry);
        button.setAttribute("aria-pressed", !hidden.has(entry));
        for (const part of parts.get(entry)) {
          const off = part.dataset.of.split(" ").some((own) => hidden.has(+own));
          part.setAttribute("display", off ? "none" : "inline");
        }
        show(null);
      });
      list.append(button);
    }
    const tools = figure.querySelector(".tools") ?? figure;
    if (parts.size <= MANY) {
      tools.append(list);
      return;
    }
    const folded = document.createElement("details");
    folded.className = "many";
    const summary = document.createElement("summary");
    summary.textContent = `Series (${parts.size})`;
    folded.append(summary, list);
    tools.append(folded);
  }

  for (const svg of document.querySelectorAll("figure svg")) furnished(svg.closest("figure"), svg);
})();
