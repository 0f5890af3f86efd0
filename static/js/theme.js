// Sets the colour theme before the first paint. Owns `data-theme` on the root and its place in local storage.
// A classic script on purpose: a module would run after the page had flashed in the other theme.

(() => {
  const NAME = "gleaner.theme";
  const root = document.documentElement;

  function stored() {
    try {
      return localStorage.getItem(NAME);
    } catch {
      return null;
    }
  }

  function apply(theme) {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
  }

  apply(stored());
  addEventListener("storage", (event) => {
    if (event.key === NAME) apply(event.newValue);
  });

  // The page's button asks for the next theme: what isn't shown now becomes fixed.
  addEventListener("gleaner:theme", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    const theme = dark ? "light" : "dark";
    apply(theme);
    try {
      localStorage.setItem(NAME, theme);
    } catch {
      // Without storage the choice lasts as long as the page.
    }
  });
})();
