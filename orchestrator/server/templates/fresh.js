// Looks at the page again while it is in view, and puts what changed in its place.
"use strict";
const LOOK_MS = 3000;

async function look() {
  if (document.visibilityState === "visible" && !window.getSelection().toString()) {
    try {
      const answer = await fetch(location.href, { redirect: "error" });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("main");
      const main = document.getElementById("main");
      if (fresh && fresh.innerHTML !== main.innerHTML) {
        const focused = main.contains(document.activeElement) ? document.activeElement : null;
        const label = focused && focused.getAttribute("aria-label");
        const scrolled = new Map();
        for (const box of main.querySelectorAll(".scroll")) {
          scrolled.set(box.getAttribute("aria-label"), box.scrollLeft);
        }
        main.replaceChildren(...fresh.childNodes);
        for (const box of main.querySelectorAll(".scroll")) {
          box.scrollLeft = scrolled.get(box.getAttribute("aria-label")) || 0;
        }
        if (label) {
          const same = main.querySelector(`[aria-label="${CSS.escape(label)}"]`);
          if (same) same.focus({ preventScroll: true });
        }
      }
    } catch {
      // The service is away; the next look may find it.
    }
  }
  setTimeout(look, LOOK_MS);
}

setTimeout(look, LOOK_MS);
