//! `docs/ops.md` is what the op table says.

use std::path::Path;

#[test]
fn the_page_about_ops_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ops.md");
    let page = mcc_ir::docs::ops_markdown();
    if std::env::var_os("MCC_BLESS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = written.lines().zip(page.lines()).position(|(a, b)| a != b);
    assert!(
        written == page,
        "docs/ops.md differs from the op table (line {:?}); MCC_BLESS=1 cargo test -p mcc-ir writes it anew",
        differs.map(|line| line + 1)
    );
}
