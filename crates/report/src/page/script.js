"use strict";
(() => {
  const data = JSON.parse(document.getElementById("points").textContent);
  // Layers come as indices of equal width in base 36.
  const unpack = text => text.match(new RegExp(".{" + data.digits + "}", "g"))?.map(d => parseInt(d, 36)) ?? [];
  data.full = unpack(data.full);
  for (const point of data.points) point.layers = unpack(point.layers);
  const percent = (part, whole) => (100 * part / Math.max(whole, 1)).toFixed(1) + "\u202f%";

  const grouped = n => n < 1e4 ? String(n) : String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");

  // Changes the bars of a layer picture to those of a point. Slots are drawn by the page.
  function showLayers(svg, point) {
    for (const kind of ["attention", "mlp"]) {
      const unit = kind === "attention" ? 1 : 2;
      let kept = 0, full = 0, removed = 0;
      for (const bar of svg.querySelectorAll("." + kind + " .bar")) {
        const layer = Number(bar.dataset.layer);
        const now = data.shapes[point.layers[layer]], was = data.shapes[data.full[layer]];
        const slot = bar.querySelector(".full"), fill = bar.querySelector(".kept");
        const [x, y, width, height] = ["x", "y", "width", "height"].map(a => Number(slot.getAttribute(a)));
        const share = now[unit] / was[unit];
        const breadth = kind === "mlp" || !now[1] ? 1 : Math.min(1, now[0] / now[1] / (was[0] / was[1]));
        fill.setAttribute("height", height * share);
        fill.setAttribute("y", y + height * (1 - share));
        fill.setAttribute("width", width * breadth);
        fill.setAttribute("x", x + width * (1 - breadth) / 2);
        bar.classList.toggle("removed", now[unit] === 0);
        const what = now[unit] === 0 ? kind + " removed" : kind === "mlp"
          ? "width " + now[2] + " of " + was[2]
          : now[1] + " of " + was[1] + " KV groups, " + now[0] + " of " + was[0] + " heads";
        bar.querySelector("title").textContent = "Layer " + layer + ": " + what;
        kept += now[unit]; full += was[unit]; removed += now[unit] === 0;
      }
      const total = svg.querySelector("[data-total=" + kind + "]");
      if (total) {
        total.textContent = grouped(kept) + " of " + grouped(full) + " (" + percent(kept, full) + "), "
          + removed + (removed === 1 ? " block" : " blocks") + " removed";
      }
    }
  }

  function scale(text) {
    const [kind, ...ends] = text.split(" ");
    const [low, high, from, to] = ends.map(Number);
    const along = kind === "log" ? Math.log : v => v;
    return v => from + (along(v) - along(low)) / (along(high) - along(low)) * (to - from);
  }

  const tooltip = document.getElementById("tooltip");
  const selected = document.getElementById("selected");

  function select(index) {
    const point = data.points[index];
    const heading = document.createElement("h3"), facts = document.createElement("p");
    heading.textContent = "Selected: " + point.label + " (" + point.role + ")";
    facts.textContent = point.facts + ".";
    selected.replaceChildren(heading, facts);
    selected.dataset.point = index;
    const template = document.querySelector("#layers .picture");
    if (!template) return;
    const picture = template.cloneNode(true);
    for (const svg of picture.querySelectorAll("svg")) {
      showLayers(svg, point);
      const totals = [...svg.querySelectorAll("[data-total]")].map(t => t.textContent);
      svg.setAttribute("aria-label", "Attention: KV groups kept " + totals[0] + ". MLP: width kept " + totals[1] + ".");
    }
    selected.append(picture);
  }

  function connect(svg) {
    const x = scale(svg.dataset.x), y = scale(svg.dataset.y);
    const places = data.points.map(p => [x(p.latency_us), y(p.kl_divergence)]);
    const marks = [...svg.querySelectorAll(".mark")]
      .sort((a, b) => places[a.dataset.point][0] - places[b.dataset.point][0]);
    const order = places.map((_, i) => i).sort((a, b) => places[a][0] - places[b][0]);
    const ring = svg.querySelector(".ring");
    let current = -1;

    function show(index) {
      current = index;
      const point = data.points[index], [cx, cy] = places[index];
      ring.removeAttribute("display"); ring.setAttribute("cx", cx); ring.setAttribute("cy", cy);
      tooltip.querySelector("strong").textContent = point.label + " (" + point.role + ")";
      tooltip.querySelector("span").textContent = point.facts;
      showLayers(tooltip.querySelector("svg"), point);
      const chart = svg.closest(".chart");
      if (tooltip.parentElement !== chart) chart.append(tooltip);
      tooltip.style.display = "block";
      const ratio = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
      const left = cx * ratio + 16, fits = left + tooltip.offsetWidth <= chart.clientWidth;
      const other = cx * ratio - 16 - tooltip.offsetWidth;
      tooltip.style.left = Math.max(0, fits ? left : Math.max(other, 0)) + "px";
      const beside = fits || other >= 0;
      tooltip.style.top = (beside ? Math.max(0, cy * ratio - tooltip.offsetHeight / 2) : cy * ratio + 18) + "px";
    }
    function hide() {
      current = -1;
      tooltip.style.display = "none";
      ring.setAttribute("display", "none");
    }
    // The last of equally near points is the one drawn on top.
    function nearest(event) {
      const box = svg.getBoundingClientRect(), ratio = svg.viewBox.baseVal.width / box.width;
      const px = (event.clientX - box.left) * ratio, py = (event.clientY - box.top) * ratio;
      let best = -1, least = 24 * 24;
      places.forEach(([cx, cy], i) => {
        const distance = (cx - px) ** 2 + (cy - py) ** 2;
        if (distance <= least) { best = i; least = distance; }
      });
      return best;
    }
    function focus(mark) {
      for (const other of marks) other.setAttribute("tabindex", other === mark ? "0" : "-1");
      mark.focus();
      show(Number(mark.dataset.point));
    }
    function step(list, from, by) {
      return list[Math.min(list.length - 1, Math.max(0, from + by))];
    }

    svg.addEventListener("pointermove", event => {
      const index = nearest(event);
      if (index < 0) hide(); else if (index !== current) show(index);
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("click", event => {
      // A click that comes from the keyboard or a screen reader has no place of its own.
      const mark = event.detail === 0 && event.target.closest(".mark");
      const index = mark ? Number(mark.dataset.point) : nearest(event);
      if (index >= 0) { show(index); select(index); }
    });
    svg.addEventListener("focusin", event => {
      const mark = event.target.closest(".mark");
      if (mark) show(Number(mark.dataset.point));
    });
    svg.addEventListener("focusout", hide);
    svg.addEventListener("keydown", event => {
      const mark = event.target.closest(".mark");
      if (!mark) return;
      const at = marks.indexOf(mark), last = marks.length;
      const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -last, End: last };
      if (event.key in moves) focus(step(marks, at, moves[event.key]));
      else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
        const from = order.indexOf(current < 0 ? Number(mark.dataset.point) : current);
        const index = step(order, from, event.key === "ArrowUp" ? 1 : -1);
        show(index);
        announce(index);
      } else if (event.key === "Enter" || event.key === " ") {
        select(current < 0 ? Number(mark.dataset.point) : current);
      } else if (event.key === "Escape") hide();
      else return;
      event.preventDefault();
    });
  }

  const spoken = document.createElement("div");
  spoken.setAttribute("role", "status");
  spoken.style.cssText = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)";
  document.body.append(spoken);
  function announce(index) {
    const point = data.points[index];
    spoken.textContent = point.label + " (" + point.role + "): " + point.facts;
  }

  document.querySelectorAll("svg.scatter").forEach(connect);

  const table = document.getElementById("coverage-table");
  if (!table) return;
  const body = table.tBodies[0], rows = [...body.rows];
  const block = document.getElementById("filter-block"), phase = document.getElementById("filter-phase");
  const flagged = document.getElementById("filter-flagged"), count = document.getElementById("filter-count");
  function filter() {
    const wanted = block.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const fits = row.cells[0].textContent.toLowerCase().includes(wanted)
        && (!phase.value || row.dataset.phase === phase.value)
        && (!flagged.checked || row.querySelector(".flag"));
      row.hidden = !fits;
      if (fits) shown += 1;
    }
    count.textContent = shown + " of " + rows.length + " shown";
  }
  const key = cell => cell.dataset.sort === undefined ? cell.textContent : Number(cell.dataset.sort);
  const compare = (a, b) => typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
  [...table.tHead.rows[0].cells].forEach((head, column, heads) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      rows.sort((a, b) => sign * compare(key(a.cells[column]), key(b.cells[column])));
      body.replaceChildren(...rows);
    });
  });
  for (const field of [block, phase, flagged]) field.addEventListener("input", filter);
  table.closest("section").querySelector(".filters").hidden = false;
  filter();
})();
