(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const plots = read("plots"), templates = read("templates");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
  // Text in parallel coordinates and heat maps has colours of its own, which no template reaches.
  const inked = (trace) => {
    const ink = { color: templates[dark.matches ? "dark" : "light"].layout.font.color };
    const fonts = { parcoords: ["labelfont", "tickfont", "rangefont"], heatmap: ["textfont"] }[trace.type] || [];
    return { ...trace, ...Object.fromEntries(fonts.map((font) => [font, { ...trace[font], ...ink }])) };
  };
  const draw = () => Promise.all(Object.entries(plots).map(([key, plot]) => {
    const template = templates[dark.matches ? "dark" : "light"];
    const place = document.getElementById(`plot-${key}`);
    return Plotly.react(place, plot.data.map(inked), { ...plot.layout, template }, config);
  }));
  const done = () => document.documentElement.setAttribute("data-plots", "drawn");
  const failed = (error) => {
    document.documentElement.setAttribute("data-plots", "failed");
    console.error(error);
  };
  draw().then(done, failed);
  dark.addEventListener("change", () => draw().then(done, failed));
})();
