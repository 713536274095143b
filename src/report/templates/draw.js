
"use strict";
const narrow = 520;
for (const place of document.querySelectorAll(".plot")) {
  const spec = JSON.parse(document.getElementById(place.dataset.spec).textContent);
  if (place.clientWidth < narrow) {
    spec.layout.font.size = 11;
    spec.layout.margin.l = 40;
    spec.layout.margin.r = 8;
  }
  Plotly.newPlot(place, spec.data, spec.layout, {
    responsive: true,
    displaylogo: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg", filename: place.dataset.spec },
  });
}
const closed = () => document.querySelectorAll("details:not([open])");
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...closed()];
  for (const details of opened) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of opened) details.open = false;
});
