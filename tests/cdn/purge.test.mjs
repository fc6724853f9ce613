// Deleted streams: what a CDN kept of them goes by their cache tag.

import assert from "node:assert/strict"
import { after, before, test } from "node:test"
import { call, close, create, get, names, patience, readOn, startAll, unique } from "./support.mjs"

let all
before(async () => { all = await startAll() })
after(() => all.stop())

const closed = async (url, body) => {
  await create(url, body)
  await close(url)
}

for (const name of names) {
  const through = (path) => all.cdns[name].url + path
  const direct = (path) => all.server.url + path

  test(`${name}: a purge by the tag takes all of one stream, and nothing else`, patience, async () => {
    const path = unique()
    const other = `${path}2`
    await closed(direct(path), "old")
    await closed(direct(other), "other")
    const { offset } = await readOn(through(path))
    const urls = [through(path), `${through(path)}?offset=-1`, `${through(path)}?offset=${offset}`]
    for (const url of [...urls, through(other)]) await get(url)
    const gone = await call(204, "DELETE", direct(path))
    for (const url of urls) assert.ok((await get(url)).headers.get("stream-closed"), "it is cached")

    await all.cdns[name].purge(gone.headers.get("cache-tag"))
    for (const url of urls) await call(404, "GET", url)
    const kept = await get(through(other))
    assert.match(kept.headers.get("cache-status"), new RegExp(`^${name}; hit`))

    await closed(direct(path), "new")
    assert.equal((await readOn(through(path))).body, "new")
  })

  test(`${name}: any character of a name can be purged`, patience, async () => {
    const path = `${unique()}/${encodeURIComponent('a "b" && c|*(d)%€')}`
    await closed(direct(path), "old")
    await get(through(path))
    const gone = await call(204, "DELETE", direct(path))
    await get(through(path))
    await all.cdns[name].purge(gone.headers.get("cache-tag"))
    await call(404, "GET", through(path))
  })
}

test("varnish: a stream that is deleted through it is purged by that", patience, async () => {
  const url = all.cdns.varnish.url + unique()
  await closed(url, "old")
  await readOn(url)
  await call(204, "DELETE", url)
  await call(404, "GET", `${url}?offset=-1`)
  await closed(url, "new")
  assert.equal((await readOn(url)).body, "new")
})
