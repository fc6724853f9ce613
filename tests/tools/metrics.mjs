// What a server says of itself at its admin listener.

/** The sum of all series of a metric whose labels are these, such as `{ mode: "sse" }`. */
export async function metric(server, name, labels = {}) {
  const text = await (await fetch(`${server.admin}/metrics`)).text()
  const wanted = Object.entries(labels).map(([label, value]) => `${label}="${value}"`)
  let sum = 0
  for (const line of text.split("\n")) {
    const [, series, value] = /^(\S+?(?:\{.*\})?) (\S+)$/.exec(line) ?? []
    if (series !== name && !series?.startsWith(`${name}{`)) continue
    if (wanted.every((label) => series.includes(label))) sum += Number(value)
  }
  return sum
}
