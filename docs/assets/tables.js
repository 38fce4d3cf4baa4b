// Tables inside <div class="fz-sorted"> sort by a click on a heading and are narrowed by a field above them.
(function () {
  "use strict";

  function value(cell) {
    return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
  }

  // resnet18 < resnet50 < resnet101; numbers by size; what has no number goes last, whichever way is up.
  function compare(a, b, up) {
    const missing = (a === "–") - (b === "–");
    if (missing) return missing;
    const order = typeof a === "number" && typeof b === "number"
      ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return up ? order : -order;
  }

  function sort(table, column, heading) {
    const up = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = Array.from(table.tBodies[0].rows);
    rows.sort((a, b) => compare(value(a.cells[column]), value(b.cells[column]), up));
    table.tBodies[0].append(...rows);
  }

  // "params<30 macs<1 resnet": limits in the units of the budget columns (10^6, 10^9), and words that a row must have.
  function filter(table, text, budget) {
    const limits = [], words = [];
    for (const part of text.toLowerCase().split(/\s+/).filter(Boolean)) {
      const limit = /^(\w+)<([\d.]+)$/.exec(part);
      if (limit && limit[1] in budget) limits.push([budget[limit[1]], Number(limit[2]) * (limit[1] === "macs" ? 1e9 : 1e6)]);
      else words.push(part);
    }
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const content = row.textContent.toLowerCase();
      row.hidden = !(words.every((word) => content.includes(word)) &&
        limits.every(([column, most]) => Number(row.cells[column].dataset.value) < most));
      shown += !row.hidden;
    }
    return shown;
  }

  function prepare(holder) {
    const table = holder.querySelector("table");
    if (!table || holder.dataset.ready) return;
    holder.dataset.ready = "yes";
    const budget = Object.fromEntries((holder.dataset.budget || "").split(",").filter(Boolean)
      .map((entry) => entry.split(":")).map(([name, column]) => [name, Number(column)]));
    const field = document.createElement("input");
    field.type = "search";
    field.className = "fz-filter";
    field.placeholder = "filter, such as: resnet params<30";
    field.setAttribute("aria-label", "filter the table");
    const count = document.createElement("p");
    count.setAttribute("aria-live", "polite");
    const tell = () => { count.textContent = filter(table, field.value, budget) + " of " + table.tBodies[0].rows.length; };
    field.addEventListener("input", tell);
    holder.before(field, count);
    Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = heading.textContent;
      heading.replaceChildren(button);
      heading.addEventListener("click", () => sort(table, column, heading));
    });
    tell();
  }

  document.querySelectorAll(".fz-sorted").forEach(prepare);
})();
