// What the Data Docs' pages can do: unfold a part, and hide the expectations that were met.
"use strict";

document.addEventListener("click", (event) => {
  const toggle = event.target.closest("[data-toggle=collapse]");
  if (toggle) {
    event.preventDefault();
    const part = document.getElementById(toggle.getAttribute("href").slice(1));
    toggle.setAttribute("aria-expanded", String(part.classList.toggle("open")));
    return;
  }
  const filter = event.target.closest("[data-show]");
  if (filter) {
    document.body.classList.toggle("only-failed", filter.dataset.show === "failed");
    for (const label of document.querySelectorAll("[data-show]")) {
      label.classList.toggle("active", label === filter);
    }
  }
});

for (const mark of document.querySelectorAll(".hide-succeeded-validation-target-child")) {
  mark.parentElement.classList.add("met");
}
for (const row of document.querySelectorAll(".hide-succeeded-validation-target")) {
  row.classList.add("met");
}
for (const mark of document.querySelectorAll(".hide-succeeded-validations-column-section-target-child")) {
  const section = mark.parentElement.parentElement;
  section.classList.add("met");
  for (const link of document.querySelectorAll(`a[href$="#${section.id}"]`)) {
    link.classList.add("met");
  }
}
