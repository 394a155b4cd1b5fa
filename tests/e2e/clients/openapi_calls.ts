// Calls by openapi-fetch with the types of openapi-typescript: URL PNG, and what came back as JSON lines.
import { readFileSync } from "node:fs";
import createClient from "openapi-fetch";
import type { paths } from "./schema.js";

const [url, file] = process.argv.slice(2) as [string, string];
const client = createClient<paths, "application/json" | "application/problem+json">({ baseUrl: url });
const png = new Blob([readFileSync(file)]);
const show = (name: string, value: unknown) => console.log(JSON.stringify([name, value]));

async function base64(blob: Blob): Promise<string> {
  return Buffer.from(await blob.arrayBuffer()).toString("base64");
}

const form = new FormData();
form.append("images", png, "digit.png");
const asItIs = { bodySerializer: (body: unknown) => body as BodyInit };

const byFile = await client.POST("/encode", {
  body: png,
  headers: { "Content-Type": "application/octet-stream" },
  ...asItIs,
});
const byForm = await client.POST("/encode", { body: { images: [png] }, bodySerializer: () => form });
const byText = await client.POST("/encode", { body: { images: [await base64(png)] } });
show("encode a file", byFile.data?.latents[0]?.mean);
show("encode a form", byForm.data?.latents[0]?.mean);
show("encode base64", byText.data?.latents[0]?.mean);

const mean = byFile.data?.latents[0]?.mean ?? [];
const images = { parseAs: "blob" } as const;
const decoded = await client.POST("/decode", { body: { latents: [mean] }, ...images });
if (decoded.data) show("decode", await base64(decoded.data));
const drawn = await client.GET("/sample", { params: { query: { n: 2, seed: 7 } }, ...images });
if (drawn.data) show("sample", await base64(drawn.data));
const posted = await client.POST("/sample", { body: { n: 2, seed: 7 }, ...images });
if (posted.data) show("sample by POST", await base64(posted.data));
const between = await client.POST("/interpolate", {
  body: { latents: [mean, mean] },
  params: { query: { steps: 3 } },
  ...images,
});
if (between.data) show("interpolate", await base64(between.data));
const scores = await client.POST("/score", {
  body: png,
  params: { query: { seed: 7 } },
  headers: { "Content-Type": "application/octet-stream" },
  ...asItIs,
});
const first = scores.data?.scores[0];
if (first && "elbo" in first) show("score", first.elbo);
const problem = await client.POST("/decode", { body: { latents: [[1]] } });
show("a problem", problem.error?.detail);
