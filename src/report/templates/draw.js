
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
    // A figure stays on this machine: plotly's button that uploads it is left out, by its option and
    // by its name, and it would have no address to go to.
    showSendToCloud: false,
    plotlyServerURL: "",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "sendChartToCloud"],
    toImageButtonOptions: { format: "svg", filename: place.dataset.spec },
  });
  // The ticks of logarithmic axes are chosen for the whole of the data: zoomed in, plotly chooses.
  place.on("plotly_relayout", (change) => {
    for (const axis of ["xaxis", "yaxis"]) {
      if (!spec.layout[axis].tickvals) continue;
      if (`${axis}.range[0]` in change) Plotly.relayout(place, { [`${axis}.tickmode`]: "auto" });
      if (`${axis}.autorange` in change) Plotly.relayout(place, { [`${axis}.tickmode`]: "array" });
    }
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
