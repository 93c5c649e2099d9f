"use strict";
// Tables that sort by a click on a column's name and download as CSV.
(() => {
  const { make, numbers } = moetap;
  const kRowsAtOnce = 200;

  /** RFC 4180: numbers as they are, undefined as an empty cell. */
  const csv = (table) => {
    const cell = (value) => {
      if (value === null || value === undefined) return "";
      const text = String(value);
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    const lines = [table.columns.map((column) => cell(column.name)).join(",")];
    for (const row of table.rows) lines.push(row.map(cell).join(","));
    return `${lines.join("\n")}\n`;
  };

  const compare = (a, b) => {
    const missingA = a === null || a === undefined, missingB = b === null || b === undefined;
    if (missingA || missingB) return Number(missingA) - Number(missingB);
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  };

  /** An element that shows {columns: [{name, unit, text}], rows: [[...]]}. `cells` may draw a cell: cells[name](value, row). */
  const view = (table, { label, cells = {}, onRow = null, chosen = () => false } = {}) => {
    let rows = table.rows, shown = kRowsAtOnce;
    const isText = (i) => table.columns[i].text ?? rows.some((row) => typeof row[i] === "string" && !/^-?[\d.]+$/.test(row[i]));
    const text = table.columns.map((_, i) => isText(i));
    const body = make("tbody");
    const more = make("button", { type: "button", onclick: () => { shown += kRowsAtOnce * 5; fill(); } });
    const fill = () => {
      body.replaceChildren(...rows.slice(0, shown).map((row) => {
        const line = make("tr", { class: chosen(row) ? "chosen" : null });
        row.forEach((value, i) => {
          const draw = cells[table.columns[i].name];
          const content = draw ? draw(value, row) : numbers.text(value);
          const title = typeof value === "number" && !Number.isInteger(value) ? String(value) : null;
          line.append(make("td", { class: text[i] ? "text" : null, title }, content));
        });
        if (onRow) line.addEventListener("click", () => onRow(row));
        return line;
      }));
      more.hidden = shown >= rows.length;
      more.textContent = `Show more of ${numbers.count(rows.length, "row")}`;
    };
    const head = make("tr");
    table.columns.forEach((column, i) => {
      const title = column.unit ? `${column.name} (${column.unit})` : column.name;
      const heading = make("th", { scope: "col", class: text[i] ? "text" : null, "aria-sort": "none" });
      heading.append(make("button", { type: "button", title: column.about, onclick: () => {
        const next = heading.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
        for (const other of head.children) other.setAttribute("aria-sort", "none");
        heading.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        const empty = (value) => value === null || value === undefined;
        rows = [...table.rows].sort((a, b) => (empty(a[i]) || empty(b[i]) ? 1 : sign) * compare(a[i], b[i]));
        fill();
      } }, title));
      head.append(heading);
    });
    fill();
    return make("div", {}, make("div", { class: "table-frame", tabindex: 0, role: "region", "aria-label": label },
      make("table", {}, make("caption", { class: "hidden" }, label), make("thead", {}, head), body)), more);
  };

  moetap.tables = { view, csv };
})();
