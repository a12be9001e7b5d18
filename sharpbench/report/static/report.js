"use strict";
(() => {
  const root = document.documentElement;
  const dark = () => root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;

  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
  });

  function save(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // A saved figure stands alone: the page's colours are written into it, on white.
  for (const button of document.querySelectorAll("button[data-svg]")) {
    button.addEventListener("click", () => {
      const svg = button.closest("figure").querySelector("svg").cloneNode(true);
      svg.setAttribute("style", "background:#ffffff;color:#1c2127;font-family:sans-serif");
      const text = new XMLSerializer().serializeToString(svg).replaceAll("var(--grid)", "#e3e7eb");
      save(button.dataset.svg + ".svg", "image/svg+xml", text);
    });
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

  // Of several bodies each keeps its rows together: the first one speaks for it.
  for (const table of document.querySelectorAll("table.sortable")) {
    const grouped = table.tBodies.length > 1;
    const first = (part) => grouped ? part.rows[0] : part;
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((h) => h.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (part) => {
          const cell = first(part).cells[column];
          return cell.dataset.value ?? cell.textContent.trim();
        };
        const numeric = head.classList.contains("n");
        const compare = (a, b) => {
          const x = key(a), y = key(b);
          if (!numeric) return x.localeCompare(y, "en", { numeric: true });
          if (x === "" || y === "") return (x === "") - (y === "") || 0;
          return Number(x) - Number(y);
        };
        const parts = grouped ? [...table.tBodies] : [...table.tBodies[0].rows];
        parts.sort((a, b) => {
          const missing = numeric ? (key(a) === "") - (key(b) === "") : 0;
          return missing || (up ? compare(a, b) : compare(b, a));
        });
        (grouped ? table : table.tBodies[0]).append(...parts);
      });
    });
  }

  for (const input of document.querySelectorAll("input[data-filter]")) {
    const table = document.getElementById(input.dataset.filter);
    const count = document.getElementById(input.dataset.filter + "-count");
    const apply = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of table.tBodies[0].rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += !row.hidden;
      }
      count.textContent = `${shown} of ${table.tBodies[0].rows.length} rows`;
    };
    input.addEventListener("input", apply);
    apply();
  }

  for (const button of document.querySelectorAll("button[data-csv]")) {
    button.addEventListener("click", () => {
      const table = document.getElementById(button.dataset.csv);
      const quote = (text) => /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
      const cells = (row) => [...row.cells].flatMap((cell) => {
        const own = cell.dataset.value ?? cell.textContent.trim();
        return "error" in cell.dataset ? [own, cell.dataset.error] : [own];
      });
      const heads = [...table.tHead.rows[0].cells].flatMap((head) => {
        const name = head.textContent.trim();
        return "error" in head.dataset ? [name, name + " standard error"] : [name];
      });
      const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden).map(cells);
      const lines = [heads, ...rows].map((row) => row.map(quote).join(","));
      save(button.dataset.csv + ".csv", "text/csv", lines.join("\n") + "\n");
    });
  }
})();
