addEventListener("input", ({ target }) => {
  target.closest(".slider")?.style.setProperty("--at", `${target.value}%`);
});
