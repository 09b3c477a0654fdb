// java -cp postgresql-42.7.14.jar Check.java HOST PORT USER PASSWORD DATABASE: pgJDBC against checks; one JSON line.
import java.math.BigDecimal;
import java.sql.*;
import java.time.*;
import java.util.*;

public class Check {
  static String json(Object o) {
    if (o == null || o instanceof Number && !(o instanceof BigDecimal) && !o.toString().equals("NaN") || o instanceof Boolean) return String.valueOf(o);
    if (o instanceof Map<?, ?> m) { StringJoiner j = new StringJoiner(",", "{", "}"); m.forEach((k, v) -> j.add(json(k) + ":" + json(v))); return j.toString(); }
    if (o instanceof List<?> l) { StringJoiner j = new StringJoiner(",", "[", "]"); l.forEach(v -> j.add(json(v))); return j.toString(); }
    return '"' + o.toString().replace("\\", "\\\\").replace("\"", "\\\"") + '"';
  }
  static List<Object> rows(ResultSet r, int... columns) throws SQLException {
    List<Object> out = new ArrayList<>();
    while (r.next()) { List<Object> row = new ArrayList<>(); for (int i : columns) row.add(r.getObject(i)); out.add(row); }
    r.close();
    return out;
  }
  public static void main(String[] a) throws Exception {
    TimeZone.setDefault(TimeZone.getTimeZone("UTC"));
    Map<String, Object> out = new LinkedHashMap<>();
    try (Connection c = DriverManager.getConnection("jdbc:postgresql://" + a[0] + ":" + a[1] + "/" + a[4], a[2], a[3])) {
      DatabaseMetaData m = c.getMetaData();
      out.put("client", "pgJDBC " + m.getDriverVersion());
      out.put("server_version", m.getDatabaseProductVersion());
      out.put("tables", rows(m.getTables(null, null, "%", new String[] {"TABLE", "VIEW"}), 2, 3, 4));
      out.put("columns", rows(m.getColumns(null, "public", "checks", "%"), 4, 6, 7, 9, 18));
      out.put("pk", rows(m.getPrimaryKeys(null, "public", "checks"), 4, 5));
      out.put("schemas", rows(m.getSchemas(), 1));
      String sql = "select window_start, stream_id, events, usd, ratio, ok from checks where window_start >= ? and window_start < ?"
          + " and usd > ? and (?::text is null or stream_id = ?) order by 1, 2";
      try (PreparedStatement p = c.prepareStatement(sql)) {
        for (int i = 0; i < 7; i++) { // the fifth is prepared by name, later ones have binary results
          p.setTimestamp(1, Timestamp.from(Instant.parse("2024-05-01T00:00:00Z")));
          p.setObject(2, OffsetDateTime.parse("2024-05-02T00:00:00Z"));
          p.setBigDecimal(3, new BigDecimal("1.50"));
          p.setNull(4, Types.VARCHAR);
          p.setString(5, null);
          Object got = rows(p.executeQuery(), 1, 2, 3, 4, 5, 6), old = out.putIfAbsent("rows", got);
          if (old != null && !old.equals(got)) throw new Exception("round " + i + ": " + got + ", not " + old);
        }
      }
      try (Statement s = c.createStatement()) { out.put("nulls", rows(s.executeQuery("select stream_id, usd from checks where usd is null"), 1, 2)); }
      c.setReadOnly(true);
      c.setAutoCommit(false);
      try (PreparedStatement p = c.prepareStatement("select stream_id from checks where events >= ?")) {
        p.setFetchSize(2); // portal suspension
        p.setLong(1, 0);
        out.put("fetched", rows(p.executeQuery(), 1).size());
      }
      c.commit();
      try (Statement s = c.createStatement()) { s.executeQuery("select no_such_column from checks"); throw new Exception("no error"); }
      catch (SQLException e) { out.put("error", e.getSQLState()); }
      c.rollback();
      out.put("valid", c.isValid(5));
      if (!c.isValid(5)) throw new Exception("not valid");
    }
    System.out.println(json(out));
  }
}
