// check.js HOST PORT USER PASSWORD DATABASE: node pg and pg-cursor against checks; one JSON line.
const { Client } = require('pg'), Cursor = require('pg-cursor');
const [host, port, user, password, database] = process.argv.slice(2);
const SQL = `select window_start, stream_id, events, usd, ratio, ok from checks
 where window_start >= $1 and window_start < $2 and usd > $3 and ($4::text is null or stream_id = $4) order by 1, 2`;
const args = [new Date('2024-05-01T00:00:00Z'), new Date('2024-05-02T00:00:00Z'), '1.50', null];
(async () => {
  const c = new Client({ host, port: +port, user, password, database });
  await c.connect();
  const out = { client: 'node pg ' + require('pg/package.json').version };
  out.tables = (await c.query("select table_schema, table_name from information_schema.tables where table_schema not in ('pg_catalog', 'information_schema') order by 1, 2")).rows.map(r => r.table_schema + '.' + r.table_name);
  out.rows = (await c.query(SQL, args)).rows.map(Object.values);
  for (let i = 0; i < 2; i++) {
    const n = (await c.query({ name: 'named', text: SQL, values: args })).rows.length;
    if (n !== out.rows.length) throw Error('named statement: ' + n + ' rows');
  }
  out.nulls = (await c.query('select stream_id from checks where usd is null')).rows.map(r => r.stream_id);
  const cur = c.query(new Cursor('select stream_id from checks where events >= $1', [0]));
  out.chunks = [];
  for (let rows; (rows = await cur.read(2)).length;) out.chunks.push(rows.length);
  await cur.close();
  out.error = await c.query('select no_such_column from checks where 1 = $1', [1]).then(() => { throw Error('no error') }, e => e.code);
  out.multi = (await c.query('select 1 as a; select 2 as a')).map(r => r.rows[0].a);
  await c.end();
  console.log(JSON.stringify(out));
})().catch(e => { console.error(e); process.exit(1); });
