"use strict";
(() => {
  const root = document.documentElement;
  const dark = () => root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;

  // What was chosen stays chosen, where the browser lets a page remember.
  const remembered = (change) => { try { return change(localStorage); } catch { return null; } };
  const theme = remembered((store) => store.getItem("sharpbench-theme"));
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    remembered((store) => store.setItem("sharpbench-theme", root.dataset.theme));
  });

  function made(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function save(name, type, text) {
    const link = made("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // What is folded is there without a script, and printed.
  for (const button of document.querySelectorAll("button[data-fold]")) {
    const rows = [...button.closest("tbody").rows].slice(1);
    const fold = (open) => {
      button.setAttribute("aria-expanded", open);
      for (const row of rows) row.hidden = !open;
    };
    button.addEventListener("click", () => fold(button.getAttribute("aria-expanded") === "false"));
    fold(false);
  }

  // A number as the page tells it: "−1.5×10⁻³ ± …", "(1.00 ± 0.02)×10⁹", "12,346", "20 µs", "×3.9", "≤ 4%".
  const UNITS = { "µs": 1e-6, ms: 1e-3, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 };
  const NUMBER = /^[×<≤≥>~[(\s]*([−+-]?(?:[\d.,]*\d|∞))(?:[^)×]*\))?(?:×10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+))?\s*(µs|ms|KiB|MiB|GiB)?/;
  function parsed(text) {
    const found = NUMBER.exec(text.trim());
    if (!found) return NaN;
    const plain = found[1].replace("−", "-").replaceAll(",", "").replace("∞", "Infinity");
    const power = [...(found[2] ?? "")].map((c) => (c === "⁻" ? "-" : "⁰¹²³⁴⁵⁶⁷⁸⁹".indexOf(c))).join("");
    return Number(plain) * 10 ** Number(power) * (UNITS[found[3]] ?? 1);
  }

  // What keeps a line from breaking is no part of what stands in it.
  const plain = (text) => text.replaceAll("\u00a0", " ").replaceAll("\u2060", "");

  // A row may have fewer cells than its table: one spans several columns.
  const own = (cell) => cell?.dataset.value ?? plain(cell?.textContent ?? "").trim();
  function figure(cell) {
    if (!cell) return NaN;
    if (cell.dataset.value !== undefined) return cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
    return parsed(cell.textContent);
  }

  // Of several bodies each keeps its rows together: the first one speaks for it.
  function sortable(table) {
    const grouped = table.tBodies.length > 1;
    const first = (part) => (grouped ? part.rows[0] : part);
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button")?.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((h) => h.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const numeric = head.classList.contains("n");
        const key = (part) => (numeric ? figure : own)(first(part).cells[column]);
        const parts = (grouped ? [...table.tBodies] : [...table.tBodies[0].rows]).map((part) => [key(part), part]);
        parts.sort(([a], [b]) => {
          if (!numeric) return (up ? 1 : -1) * a.localeCompare(b, "en", { numeric: true });
          // What is missing stands last, whichever way.
          if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
          return a === b ? 0 : (up ? 1 : -1) * (a < b ? -1 : 1);
        });
        (grouped ? table : table.tBodies[0]).append(...parts.map(([, part]) => part));
      });
    });
  }

  // What stands in the table, of it what the filter leaves: by the head of each column.
  function content(table) {
    const columns = [...table.tHead.rows[0].cells].map((head) => ({
      name: head.textContent.trim(),
      numeric: head.classList.contains("n"),
      error: "error" in head.dataset,
    }));
    const rows = [...table.tBodies].flatMap((body) => [...body.rows]).filter((row) => !row.hidden);
    return [columns, rows.map((row) => [...row.cells])];
  }

  function csv(table) {
    const quote = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const [columns, rows] = content(table);
    const heads = columns.flatMap((c) => (c.error ? [c.name, `${c.name} standard error`] : [c.name]));
    const lines = rows.map((cells) => cells.flatMap((cell) =>
      ("error" in cell.dataset ? [own(cell), cell.dataset.error] : [own(cell)])));
    return [heads, ...lines].map((line) => line.map(quote).join(",")).join("\n") + "\n";
  }

  function json(table) {
    const [columns, rows] = content(table);
    const number = (text) => (text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : null);
    return JSON.stringify(rows.map((cells) => Object.fromEntries(cells.flatMap((cell, place) => {
      const { name, numeric, error } = columns[place];
      const text = own(cell);
      const value = numeric ? number(text) ?? (text === "" || text === "–" ? null : text) : text;
      return error ? [[name, value], [`${name} standard error`, number(cell.dataset.error ?? "")]] : [[name, value]];
    }))), null, 1) + "\n";
  }

  const LONG = 12, NOT_PRINTED = 60;

  // Every table can be sorted and saved; a long one scrolls under its head and is filtered.
  function furnished(table, place) {
    const body = table.tBodies[0];
    if (!table.tHead || !body || body.rows.length < 2) return;
    table.id ||= `table-${place}`;
    const section = table.closest("section");
    const name = [section?.getAttribute("aria-labelledby"), table.id].filter(Boolean).join("-");
    for (const head of table.tHead.rows[0].cells) {
      if (head.querySelector("button") || !head.textContent.trim()) continue;
      const button = made("button", { type: "button" });
      button.append(...head.childNodes);
      head.append(button);
    }
    table.classList.add("sortable");
    const holder = table.parentElement.matches(".scroll, .tall") ? table.parentElement : table;
    const tools = made("div", { class: "tools" });
    const long = body.rows.length > LONG;
    if (long) {
      if (holder !== table) holder.classList.add("tall");
      const input = made("input", {
        type: "search", "data-filter": table.id, placeholder: "filter, e.g. digits sam trace",
        "aria-label": "Filter the table",
      });
      const count = made("span", { id: `${table.id}-count`, class: "quiet", role: "status" });
      const apply = () => {
        const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
        let shown = 0;
        for (const row of body.rows) {
          const text = words.length ? plain(row.textContent).toLowerCase() : "";
          row.hidden = !words.every((word) => text.includes(word));
          shown += !row.hidden;
        }
        count.textContent = `${shown} of ${body.rows.length} rows`;
      };
      input.addEventListener("input", apply);
      apply();
      tools.append(input, count);
    }
    if (body.rows.length > NOT_PRINTED) {
      holder.classList.add("raw");
      holder.before(made("p", { class: "unprinted" }, `${body.rows.length} rows: on the page itself.`));
    }
    for (const [form, type, write] of [["csv", "text/csv", csv], ["json", "application/json", json]]) {
      const button = made("button", { type: "button", [`data-${form}`]: table.id }, `Save as ${form.toUpperCase()}`);
      button.addEventListener("click", () => save(`${name}.${form}`, type, write(table)));
      tools.append(button);
    }
    holder[long ? "before" : "after"](tools);
  }

  document.querySelectorAll("main table:not(.card)").forEach(furnished);
  document.querySelectorAll("table.sortable").forEach(sortable);

  // What scrolls is reached by the keyboard, and says what it is; what does not is no stop on the way.
  function label(element) {
    const figureOf = element.closest("figure")?.querySelector("svg");
    const titles = [
      figureOf?.getAttribute("aria-label"),
      element.closest("details")?.querySelector("summary")?.textContent,
      element.closest("section")?.querySelector("h2")?.firstChild?.textContent,
    ];
    return titles.find((text) => text?.trim())?.trim().slice(0, 120) ?? "What scrolls";
  }
  const reach = (element) => {
    const scrolls = element.scrollWidth > element.clientWidth + 1 || element.scrollHeight > element.clientHeight + 1;
    if (!scrolls) {
      for (const name of ["tabindex", "role", "aria-label"]) element.removeAttribute(name);
    } else if (!element.hasAttribute("tabindex")) {
      element.tabIndex = 0;
      element.setAttribute("role", "group");
      element.setAttribute("aria-label", label(element));
    }
  };
  const watch = new ResizeObserver((entries) => entries.forEach((entry) => reach(entry.target)));
  for (const element of document.querySelectorAll(".scroll, .tall, pre")) {
    reach(element);
    watch.observe(element);
  }

  // A saved figure stands alone: the page's colours are written into it, on white.
  for (const button of document.querySelectorAll("button[data-svg]")) {
    button.addEventListener("click", () => {
      const svg = button.closest("figure").querySelector("svg").cloneNode(true);
      for (const part of svg.querySelectorAll("metadata, .ring")) part.remove();
      svg.removeAttribute("tabindex");
      svg.setAttribute("style", "background:#ffffff;color:#1c2127;font-family:sans-serif");
      const text = new XMLSerializer().serializeToString(svg).replaceAll("var(--grid)", "#e3e7eb");
      save(button.dataset.svg + ".svg", "image/svg+xml", text);
    });
  }
})();
