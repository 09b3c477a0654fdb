/** The library's door: draws the reference, which the document of the api fills. */

import { render } from "preact";

import { Book } from "./book";
import { showTheme } from "./theme";

showTheme();
const place = document.getElementById("page");
if (place) render(<Book />, place);
