// Shows the nearest point under the pointer. Without scripts the pictures are the same, and say nothing.
const tip = document.getElementById("tip");
for (const svg of document.querySelectorAll("svg[data-hover]")) {
  const axes = JSON.parse(svg.dataset.hover);
  const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  dot.setAttribute("r", 5);
  dot.setAttribute("class", "dot");
  svg.append(dot);
  const view = svg.viewBox.baseVal;
  const hide = () => { tip.hidden = true; dot.style.display = "none"; };
  svg.addEventListener("mouseleave", hide);
  svg.addEventListener("mousemove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    let best = null, distance = 30;
    for (const panel of axes) {
      const [x0, y0, x1, y1] = panel.box;
      if (x < x0 || x > x1 || y < y0 || y > y1) continue;
      for (const series of panel.series)
        for (const [px, py, words] of series.points) {
          const away = Math.hypot((px - x) * box.width, (py - y) * box.height);
          if (away < distance) { distance = away; best = [px, py, series.name, words]; }
        }
    }
    if (!best) return hide();
    dot.setAttribute("cx", view.x + best[0] * view.width);
    dot.setAttribute("cy", view.y + best[1] * view.height);
    dot.style.display = "";
    tip.textContent = best[2] + ": " + best[3];
    tip.hidden = false;
    tip.style.left = Math.min(event.pageX + 14, window.scrollX + innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = event.pageY + 14 + "px";
  });
  hide();
}
// Paper cannot be clicked: what is folded is printed, too.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:not(.long):not([open])")) { part.open = true; part.dataset.folded = ""; }
});
addEventListener("afterprint", () => {
  for (const part of document.querySelectorAll("details[data-folded]")) { part.open = false; delete part.dataset.folded; }
});
