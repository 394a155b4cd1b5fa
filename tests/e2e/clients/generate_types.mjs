// Types of an OpenAPI document by openapi-typescript: DOCUMENT OUTPUT. Binary content is a Blob, not a string.
import { readFileSync, writeFileSync } from "node:fs";
import openapiTS, { astToString } from "openapi-typescript";
import ts from "typescript";

const BLOB = ts.factory.createTypeReferenceNode(ts.factory.createIdentifier("Blob"));
const [source, output] = process.argv.slice(2);
const nodes = await openapiTS(JSON.parse(readFileSync(source, "utf8")), {
  transform: (schema) => (schema.format === "binary" ? BLOB : undefined),
});
writeFileSync(output, astToString(nodes));
