//! The functions that ad-hoc queries may call. Whatever is not listed is refused by name.

use std::collections::HashSet;
use std::sync::LazyLock;

/// Whether ad-hoc queries may call it.
pub fn is_allowed(name: &str) -> bool {
    static SET: LazyLock<HashSet<&str>> = LazyLock::new(|| names(ALLOWED).collect());
    SET.contains(name)
}

/// The allowed function whose name is nearest to this one.
pub fn nearest(name: &str) -> Option<String> {
    super::names::nearest(name, names(ALLOWED))
}

fn names(list: &'static str) -> impl Iterator<Item = &'static str> {
    list.lines().filter(|line| !line.trim_start().starts_with("--")).flat_map(str::split_whitespace)
}

/// What a call makes grows with its arguments, and not with a number among them.
const ALLOWED: &str = "
    -- Numbers.
    abs acos acosh asin asinh atan atan2 atanh cbrt ceil cos cosh cot degrees
    exp factorial floor gcd isnan iszero lcm ln log log10 log2 nanvl pi pow
    power radians rand random round signum sin sinh sqrt tan tanh trunc
    -- Whatever has a value.
    arrow_cast arrow_field arrow_metadata arrow_try_cast arrow_typeof cast_to_type coalesce
    get_field greatest ifnull least named_struct nullif nvl nvl2 row struct
    try_cast_to_type union_extract union_tag uuid with_metadata
    -- Text.
    ascii bit_length btrim char_length character_length chr concat concat_ws contains
    decode digest encode ends_with find_in_set initcap instr left length levenshtein
    lower ltrim md5 octet_length overlay position regexp_count regexp_instr regexp_like
    regexp_match regexp_replace replace reverse right rtrim sha224 sha256 sha384 sha512
    split_part starts_with string_to_array string_to_list strpos substr substr_index substring
    substring_index to_hex translate trim upper
    -- Times.
    current_date current_time current_timestamp date_bin date_format date_part date_trunc
    datepart datetrunc from_unixtime make_date make_time now to_char to_date to_local_time
    to_time to_timestamp to_timestamp_micros to_timestamp_millis to_timestamp_nanos
    to_timestamp_seconds to_unixtime today
    -- Lists and maps.
    any_match array_add array_any_match array_any_value array_append array_avg array_cat
    array_compact array_concat array_contains array_dims array_distance array_distinct
    array_element array_empty array_except array_extract array_filter array_first array_has
    array_has_all array_has_any array_indexof array_intersect array_join array_length array_max
    array_min array_ndims array_normalize array_pop_back array_pop_front array_position
    array_positions array_prepend array_product array_push_back array_push_front array_remove
    array_remove_all array_remove_n array_replace array_replace_all array_replace_n array_reverse
    array_scale array_slice array_sort array_subtract array_sum array_to_string array_transform
    array_union arrays_overlap arrays_zip cardinality cosine_distance dot_product element_at
    empty flatten inner_product list_add list_any_match list_any_value list_append list_avg
    list_cat list_compact list_concat list_contains list_dims list_distance list_distinct
    list_element list_empty list_except list_extract list_filter list_first list_has
    list_has_all list_has_any list_indexof list_intersect list_join list_length list_max
    list_ndims list_normalize list_pop_back list_pop_front list_position list_positions
    list_prepend list_product list_push_back list_push_front list_remove list_remove_all
    list_remove_n list_replace list_replace_all list_replace_n list_reverse list_scale list_slice
    list_sort list_subtract list_sum list_to_string list_transform list_union list_zip
    make_array make_list map map_entries map_extract map_keys map_values unnest
    -- Aggregates.
    any_value approx_distinct approx_median approx_percentile_cont approx_percentile_cont_with_weight
    array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count covar covar_pop
    covar_samp first_value grouping last_value max mean median min nth_value
    percentile_cont quantile_cont regr_avgx regr_avgy regr_count regr_intercept regr_r2
    regr_slope regr_sxx regr_sxy regr_syy stddev stddev_pop stddev_samp string_agg sum
    var var_pop var_population var_samp var_sample
    -- Over windows of rows.
    cume_dist dense_rank lag lead ntile percent_rank rank row_number
";

/// What DataFusion has besides: makers of rows, lists and texts of any size, and what tells of files and versions.
#[cfg(test)]
const REFUSED: &str = "
    array_repeat array_resize file_row_index generate_series input_file_name list_repeat
    list_resize lpad range repeat rpad version
";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use datafusion::prelude::SessionContext;

    use super::*;

    #[test]
    fn every_function_is_either_allowed_or_refused() {
        let state = SessionContext::new().state();
        let known: BTreeSet<String> = state
            .scalar_functions()
            .keys()
            .chain(state.aggregate_functions().keys())
            .chain(state.window_functions().keys())
            .chain(state.higher_order_functions().keys())
            .cloned()
            // The planner's own, which no registry has.
            .chain(["unnest".to_string()])
            .collect();
        let listed: Vec<&str> = names(ALLOWED).chain(names(REFUSED)).collect();
        let unlisted: Vec<&String> = known.iter().filter(|name| !listed.contains(&name.as_str())).collect();
        let unknown: Vec<&&str> = listed.iter().filter(|name| !known.contains(**name)).collect();
        assert!(unlisted.is_empty() && unknown.is_empty(), "not listed: {unlisted:?}; not there: {unknown:?}");
        assert_eq!(listed.iter().collect::<BTreeSet<_>>().len(), listed.len(), "one is listed twice");
    }
}
