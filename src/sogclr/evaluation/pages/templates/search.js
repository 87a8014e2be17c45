"use strict";
const message = document.getElementById("message");
const overlay = document.getElementById("drop");
const chooser = document.querySelector("input[type=file]");
const form = document.querySelector("form");
const label = document.querySelector("select[name=label]");

function say(text) {
  message.textContent = text;
  message.hidden = !text;
}

async function searchFor(picture) {
  say("");
  document.body.classList.add("busy");
  try {
    const answer = await fetch("/picture", { method: "POST", body: picture });
    const { address, error } = await answer.json();
    if (error) throw new Error(error);
    const chosen = label && label.value ? "&label=" + encodeURIComponent(label.value) : "";
    location.assign(address + chosen);
  } catch (error) {
    say(error instanceof TypeError ? "The server does not answer." : error.message);
    document.body.classList.remove("busy");
  }
}

function pictureIn(transfer) {
  return [...(transfer?.files ?? [])][0];
}

if (label) label.addEventListener("change", () => form.requestSubmit());

if (chooser) {
  chooser.addEventListener("change", () => chooser.files[0] && searchFor(chooser.files[0]));
  chooser.parentElement.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      chooser.click();
    }
  });
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    overlay.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) overlay.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    overlay.hidden = true;
    const picture = pictureIn(event.dataTransfer);
    if (!picture) return;
    event.preventDefault();
    searchFor(picture);
  });
  document.addEventListener("paste", (event) => {
    const picture = pictureIn(event.clipboardData);
    if (picture) searchFor(picture);
  });
}

// A page that the browser has kept, as it was left while a picture was being sent.
addEventListener("pageshow", () => document.body.classList.remove("busy"));
