(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const plots = read("plots"), templates = read("templates");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const config = {
    responsive: true, displaylogo: false, displayModeBar: "hover",
    showSendToCloud: false, // by default Plotly offers to upload a plot to its cloud
    modeBarButtonsToRemove: ["lasso2d", "select2d", "zoomIn2d", "zoomOut2d", "autoScale2d"], // little space in small plots
  };
  // Parallel coordinates and heat maps set their own text colours, which a template cannot change.
  const withTextColour = (trace) => {
    const { color } = templates[dark.matches ? "dark" : "light"].layout.font;
    const fonts = { parcoords: ["labelfont", "tickfont", "rangefont"], heatmap: ["textfont"] }[trace.type] || [];
    return { ...trace, ...Object.fromEntries(fonts.map((font) => [font, { ...trace[font], color }])) };
  };
  const draw = () => Promise.all(Object.entries(plots).map(([key, plot]) => {
    const template = templates[dark.matches ? "dark" : "light"];
    const element = document.getElementById(`plot-${key}`);
    return Plotly.react(element, plot.data.map(withTextColour), { ...plot.layout, template }, config);
  }));
  const done = () => document.documentElement.setAttribute("data-plots", "drawn");
  const failed = (error) => {
    document.documentElement.setAttribute("data-plots", "failed");
    console.error(error);
  };
  draw().then(done, failed);
  dark.addEventListener("change", () => draw().then(done, failed));
})();
