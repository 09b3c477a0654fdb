/** The door: draws the page, and begins to learn. */

import "uplot/dist/uPlot.min.css";
import "./page.css";

import { render } from "preact";

import { learn } from "./known";
import { Page } from "./page";
import { showTheme } from "./theme";

showTheme();
const place = document.getElementById("page");
if (place) render(<Page />, place);
learn();
