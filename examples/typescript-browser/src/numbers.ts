// JSON with the digits that were sent: JavaScript's numbers are doubles, and 9007199254740993 is none.

// Chrome, Edge, Firefox and Safari have these in their versions since March 2025; TypeScript's own libraries not yet.
declare global {
  interface JSON {
    rawJSON(text: string): unknown;
    parse(text: string, reviver: (key: string, value: unknown, context: { source: string }) => unknown): any;
  }
}

// Returns the value of a JSON text, whose numbers JSON.stringify writes as they stood there.
export function exactly(text: string): any {
  return JSON.parse(text, (_, value, { source }) => (typeof value === "number" ? JSON.rawJSON(source) : value));
}
