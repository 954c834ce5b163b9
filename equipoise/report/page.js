"use strict";
// Headings sort their table, and long tables get a field that filters by name.
for (const table of document.querySelectorAll("table.sortable")) {
  const rows = [...table.tBodies[0].rows];
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, i) => {
    const text = row.cells[i].textContent;
    if (i === 0) return text;
    const value = parseFloat(text.replace(/[,%+]/g, "").replace("−", "-"));
    return Number.isNaN(value) ? -Infinity : value;
  };
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const keyed = rows.map((row) => [key(row, i), row]);
      keyed.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1));
      table.tBodies[0].append(...keyed.map(([, row]) => row));
    });
  });
  if (rows.length > 60) {
    const field = document.createElement("input");
    field.type = "search";
    field.placeholder = "part of a name";
    field.setAttribute("aria-label", "Show rows whose name holds");
    field.addEventListener("input", () => {
      const wanted = field.value.toLowerCase();
      for (const row of rows) {
        row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
      }
    });
    table.parentElement.before(field);
  }
}
