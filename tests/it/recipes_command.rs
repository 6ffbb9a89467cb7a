//! `nepa recipes`: the recipes that come with the binary.

use crate::common::*;

#[test]
fn all_recipes_of_the_project_are_listed_with_what_they_do() {
    let said = Folder::new().nepa(&["recipes"]);
    let listed = said.succeeds().stdout.lines().take_while(|line| !line.is_empty());
    let mut listed: Vec<&str> = listed.collect();
    assert!(listed[0].starts_with("quickstart   "), "{said}");
    listed.sort_unstable();
    let mut files: Vec<String> = std::fs::read_dir(repository("recipes"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap().replace(".rhai", ""))
        .collect();
    files.sort_unstable();
    let names: Vec<&str> = listed.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, files);
    for line in &listed {
        let what = line[20..].trim();
        assert!(what.split(' ').count() > 4 && !what.ends_with('.') && what.len() < 160, "{line}");
    }
    said.prints(&["pretrain_vits         Pretrains ViT-S/14 on ImageNet-1K with NEPA"]);
}

#[test]
fn a_copied_recipe_finds_its_images_and_no_file_is_replaced() {
    let folder = Folder::on_cpu();
    let said = folder.nepa(&["recipes", "copy", "quickstart"]);
    said.succeeds().prints(&["wrote quickstart.rhai; run it with `nepa run quickstart.rhai`"]);
    let original = std::fs::read(repository("recipes/quickstart.rhai")).unwrap();
    assert_eq!(std::fs::read(folder.path("quickstart.rhai")).unwrap(), original);
    // Its images come with nepa, wherever the recipe lies.
    folder.nepa(&["check", "quickstart.rhai"]).succeeds();
    folder.run("print(data::open(data::example(\"fashion-mnist\"), \"train\").len);").succeeds().prints(&["12000\n"]);

    let said = folder.nepa(&["recipes", "copy", "quickstart.rhai"]);
    said.fails(1).says(&["quickstart.rhai exists, and is kept", "nepa recipes copy quickstart FILE.rhai"]);
    std::fs::create_dir(folder.path("mine")).unwrap();
    folder.nepa(&["recipes", "copy", "knn", "mine"]).succeeds().prints(&["wrote mine/knn.rhai"]);
    folder.nepa(&["recipes", "copy", "knn", "mine/my knn.rhai"]).succeeds().prints(&["nepa run 'mine/my knn.rhai'"]);
    let said = folder.nepa(&["recipes", "copy", "knn", "nowhere/knn.rhai"]);
    said.fails(1).says(&["cannot write nowhere/knn.rhai", "No such file or directory"]);
    let said = folder.nepa(&["recipes", "copy", "quikstart"]);
    said.fails(1).says(&["no recipe is called `quikstart`; did you mean `quickstart`?", "`nepa recipes` lists them"]);
    folder.nepa(&["recipes", "cpoy", "knn"]).fails(2).says(&["copy"]);
}

#[test]
fn example_images_that_are_not_there_are_told() {
    let said = Folder::new().run("print(data::example(\"fashion-minst\"));");
    let line = "no example images are called \"fashion-minst\"; did you mean `fashion-mnist`?";
    said.fails(1).says(&[line, "expected fashion-mnist", "recipe.rhai:1:"]);
}
