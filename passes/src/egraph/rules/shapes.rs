//! Rules about ops that move data and compute nothing: `slice`, `concat`, `reshape`, `transpose`, `expand`.
//!
//! ```text
//! slice(slice(x, 64..192), 0..32)            ->  slice(x, 64..96)
//! concat(slice(x, 0..64), slice(x, 64..192)) ->  slice(x, 0..192)  ->  x
//! reshape(reshape(x, [4*T, 64]), [T, 256])   ->  reshape(x, [T, 256])  ->  x
//! ```
//!
//! All are equations between selections of the same elements, so they are exact for every element type. Of a
//! block-scaled value they select codes and scales alike: the op table lets it be cut and reshaped only where
//! its scale groups stay whole, and cuts that fall between groups still do after they are composed.

use super::{Match, always, holds, rules};

rules! {
    /// x[0..n] = x, when n is the extent of the axis.
    "slice-whole" Exact
        "(slice ?axis 0 ?len ?x)"
     => "?x"                                                                if covers_axis;

    /// x[s..s+n][t..t+l] = x[s+t..s+t+l].
    "slice-slice" Exact
        "(slice ?axis ?t ?len (slice ?axis ?s ?n ?x))"
     => "(slice ?axis ?start ?len ?x)"                                      if start_is_sum;

    /// (a ++ b)[s..s+l] = a[s..s+l], when s + l <= |a|.
    "slice-concat-first" Exact
        "(slice ?axis ?s ?len (concat ?axis ?a ?b))"
     => "(slice ?axis ?s ?len ?a)"                                          if ends_in_first;

    /// (a ++ b)[s..s+l] = b[s-|a|..s-|a|+l], when s >= |a|.
    "slice-concat-second" Exact
        "(slice ?axis ?s ?len (concat ?axis ?a ?b))"
     => "(slice ?axis ?start ?len ?b)"                                      if starts_in_second;

    /// x[s..s+l] ++ x[t..t+m] = x[s..s+l+m], when t = s + l.
    "concat-slices" Exact
        "(concat ?axis (slice ?axis ?s ?l ?x) (slice ?axis ?t ?m ?x))"
     => "(slice ?axis ?s ?len ?x)"                                          if adjacent;

    /// A concatenation of one value is that value.
    "concat-one" Exact
        "(concat ?axis ?x)"
     => "?x"                                                                if always;

    /// Reshaping to the shape that a value has changes nothing.
    "reshape-same" Exact
        "(reshape ?shape ?x)"
     => "?x"                                                                if has_shape;

    /// Both reshapes keep the row-major order, so the one in the middle is of no effect.
    "reshape-reshape" Exact
        "(reshape ?shape (reshape ?middle ?x))"
     => "(reshape ?shape ?x)"                                               if always;

    /// Axes that change places twice are where they were.
    "transpose-transpose" Exact
        "(transpose ?a ?b (transpose ?a ?b ?x))"
     => "?x"                                                                if always;

    /// An axis that changes places with itself stays.
    "transpose-same" Exact
        "(transpose ?a ?a ?x)"
     => "?x"                                                                if always;

    /// x once is x.
    "expand-once" Exact
        "(expand ?axis 1 ?x)"
     => "?x"                                                                if always;

    /// Some of n equal ones are fewer equal ones.
    "slice-expand" Exact
        "(slice ?axis ?s ?len (expand ?axis ?n ?x))"
     => "(expand ?axis ?len ?x)"                                            if always;
}

fn covers_axis(m: &mut Match<'_>) -> Option<()> {
    holds(m.extent("?x", "?axis")? == m.int("?len")?)
}

fn start_is_sum(m: &mut Match<'_>) -> Option<()> {
    let start = m.int("?s")?.checked_add(m.int("?t")?)?;
    m.bind("?start", start)
}

fn ends_in_first(m: &mut Match<'_>) -> Option<()> {
    holds(m.int("?s")?.checked_add(m.int("?len")?)? <= m.extent("?a", "?axis")?)
}

fn starts_in_second(m: &mut Match<'_>) -> Option<()> {
    let start = m.int("?s")?.checked_sub(m.extent("?a", "?axis")?)?;
    m.bind("?start", start)
}

fn adjacent(m: &mut Match<'_>) -> Option<()> {
    let (start, first, second) = (m.int("?s")?, m.int("?l")?, m.int("?m")?);
    holds(start.checked_add(first)? == m.int("?t")?)?;
    m.bind("?len", first.checked_add(second)?)
}

fn has_shape(m: &mut Match<'_>) -> Option<()> {
    holds(m.ty("?x")?.shape == m.shape("?shape")?)
}
