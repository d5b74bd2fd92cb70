"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.ariaSort === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => {
        const value = row.cells[i].dataset.v;
        return value === undefined ? row.cells[i].textContent : value === "" ? null : +value;
      };
      const order = (a, b) =>
        typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
      const rows = [...body.rows].map((row) => [key(row), row]);
      rows.sort(([a], [b]) =>
        a === null ? (b === null ? 0 : 1) : b === null ? -1 : down ? order(b, a) : order(a, b));
      body.append(...rows.map(([, row]) => row));
    });
  });
}
