// What the theme leaves out for people who use a keyboard or a screen reader, put in as the page is built and resized.
"use strict";

(() => {
  let waiting = false;

  const mend = () => {
    waiting = false;
    document.querySelector(".md-search[role=dialog]:not([aria-label])")?.setAttribute("aria-label", "Search");
    // Every block of code has its copy button in one: as landmarks they would drown the others.
    document.querySelectorAll("nav.md-code__nav:not([role])").forEach((nav) => nav.setAttribute("role", "none"));
    // What scrolls takes the focus, so that the arrow keys scroll it. The theme does so for code alone, and only with a mouse.
    for (const box of document.querySelectorAll(".md-typeset pre > code, .md-typeset__scrollwrap")) {
      if (box.scrollWidth > box.clientWidth) {
        if (!box.hasAttribute("tabindex")) box.tabIndex = 0;
      } else if (box.hasAttribute("tabindex") && box !== document.activeElement) {
        box.removeAttribute("tabindex");
      }
    }
  };

  const soon = () => {
    if (!waiting) requestAnimationFrame(mend);
    waiting = true;
  };

  new MutationObserver(soon).observe(document.documentElement, {
    subtree: true, childList: true, attributes: true, attributeFilter: ["tabindex"],
  });
  addEventListener("resize", soon);
  soon();
})();
