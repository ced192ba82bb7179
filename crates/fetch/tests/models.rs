//! The models that the repository describes.

use std::path::Path;

use lathe_fetch::ModelSpec;

#[test]
fn every_description_can_be_read_and_is_named_as_its_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let spec = ModelSpec::load(&path).unwrap();
        assert_eq!(path.file_stem().unwrap(), spec.name.as_str());
        count += 1;
    }
    assert!(count >= 4);
}
