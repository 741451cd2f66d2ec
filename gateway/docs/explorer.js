// Starts Swagger UI. In a file of its own, because the content security policy allows no script within a page.

// Swagger UI shows JSON as JavaScript reads it: an integer beyond 2^53 would be another one, and 1.0 would be 1. This
// breaks the text into lines, and changes no value.
function indented(json) {
  const tokens = json.match(/"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+/g) || [];
  let text = "";
  let depth = 0;
  const line = () => "\n" + "  ".repeat(depth);
  tokens.forEach((token, index) => {
    const empty = (token === "}" && tokens[index - 1] === "{") || (token === "]" && tokens[index - 1] === "[");
    if (token === "}" || token === "]") {
      depth -= 1;
      text += empty ? token : line() + token;
    } else {
      const opened = tokens[index - 1] === "{" || tokens[index - 1] === "[" || tokens[index - 1] === ",";
      text += (opened ? line() : "") + token + (token === ":" ? " " : "");
      depth += token === "{" || token === "[" ? 1 : 0;
    }
  });
  return text;
}

const exactAnswers = () => ({
  wrapComponents: {
    responseBody: (Original, { React, getComponent }) => (props) => {
      if (!/json/i.test(props.contentType) || typeof props.content !== "string") {
        return React.createElement(Original, props);
      }
      const looks = { language: "json", downloadable: true, fileName: "answer.json", canCopy: true };
      return React.createElement(getComponent("HighlightCode", true), looks, indented(props.content));
    },
  },
});

window.ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#explorer",
  plugins: [exactAnswers],
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0, // the list of schemas is long
  validatorUrl: null, // else the page asks a public service to judge the document
});
