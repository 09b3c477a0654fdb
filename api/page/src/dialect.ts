/** The dictionary: the words of the SQL that may be asked, so that completion offers these and no others. */

import { SQLDialect } from "@codemirror/lang-sql";

const KEYWORDS =
  "all and as asc between by case cast cross current current_timestamp desc distinct else end except exists explain extract " +
  "false filter first following from full group having ilike in inner intersect interval is join last left like limit not " +
  "null nulls offset on or order outer over partition preceding range right row rows select then true unbounded union using " +
  "values when where window with within";

const FUNCTIONS =
  "tumble hop cumulate abs approx_distinct approx_median approx_percentile_cont array_agg avg bool_and bool_or ceil coalesce " +
  "concat corr count covar_pop covar_samp date_bin date_part date_trunc dense_rank first_value floor greatest " +
  "last_value lead least length lower max median min now nullif percentile_cont power rank regexp_like replace round " +
  "row_number sqrt starts_with stddev string_agg substr sum to_timestamp trim upper var";

const TYPES = "bigint boolean date decimal double integer int real smallint text timestamp varchar";

export const dialect = SQLDialect.define({ keywords: KEYWORDS, builtin: FUNCTIONS, types: TYPES });
