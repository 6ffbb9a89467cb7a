//! The language of the scripts does what its book promises, wherever an expression stands: with plain variables, with
//! variables that a closure has captured, inside closures; in a recipe, in an imported script, in a callback of Rust
//! code and in one of the standard library.

use crate::common::*;
use std::collections::BTreeMap;
use std::fmt::Write as _;

struct Row {
    what: String,
    variables: String,
    expression: String,
    value: String,
}

/// The rows of tests/fixtures/language.txt.
fn rows() -> Vec<Row> {
    let text = std::fs::read_to_string(repository("tests/fixtures/language.txt")).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let mut rows = Vec::new();
    for block in lines.chunk_by(|_, next| next.starts_with("    ")) {
        let [what, rest @ .., expression, value] = block else { panic!("not a row: {block:?}") };
        let variables = rest.first().map_or("", |line| line.trim()).to_string();
        let value = value.strip_prefix("    = ").unwrap_or_else(|| panic!("{what}: no value")).to_string();
        rows.push(Row { what: what.to_string(), variables, expression: expression.trim().to_string(), value });
    }
    assert!(rows.len() > 140, "{}", rows.len());
    rows
}

impl Row {
    /// Names of the variables, outside closures.
    fn names(&self) -> Vec<&str> {
        let depth = |end: usize| {
            let before = &self.variables[..end];
            before.matches('{').count() - before.matches('}').count()
        };
        let outer = self.variables.match_indices("let ").filter(|(start, _)| depth(*start) == 0);
        outer.map(|(start, _)| self.variables[start + 4..].split(' ').next().unwrap()).collect()
    }

    /// The row as a block that has its value.
    fn block(&self, setting: &str) -> String {
        let Row { variables, expression, .. } = self;
        let held = match self.names().as_slice() {
            [] => String::new(),
            names => format!("let held = || [{}];", names.join(", ")),
        };
        match setting {
            "plain" => format!("{variables} {expression}"),
            "captured" => format!("{variables} {held} {expression}"),
            "inside a closure" => format!("{variables} (|| {{ {expression} }}).call()"),
            "captured, inside a closure" => {
                format!("{variables} {held} let whole = || {{ {expression} }}; whole.call()")
            }
            "inside two closures" => {
                format!("{variables} (|| {{ let inmost = || {{ {expression} }}; inmost.call() }}).call()")
            }
            other => panic!("{other}"),
        }
    }
}

const SETTINGS: [&str; 5] =
    ["plain", "captured", "inside a closure", "captured, inside a closure", "inside two closures"];

/// Functions that rows call.
const FUNCTIONS: &str = r#"
fn twice(x) { x * 2 }
fn joined(a, b) { `${a}${b}` }
fn factorial(n) { if n < 2 { 1 } else { n * factorial(n - 1) } }
fn first_above(a, k) { for x in a { if x > k { return x; } } }
fn twice_the_length() { this.len() * 2 }
fn increase(k) { this += k; }
fn grown(a) { a.push(1); a }
"#;

/// A statement that prints the value of a block, or the error in it.
fn shown(row: usize, block: &str) -> String {
    format!("try {{ print(\"{row}|\" + {{ {block} }}); }} catch (error) {{ print(\"{row}|error: \" + error); }}\n")
}

/// Every row of what was printed has its value.
#[track_caller]
fn hold(rows: &[Row], said: &Said, setting: &str) {
    said.succeeds();
    let printed: BTreeMap<usize, &str> = said
        .stdout
        .lines()
        .filter_map(|line| line.split_once('|'))
        .filter_map(|(n, v)| Some((n.parse().ok()?, v)))
        .collect();
    let mut wrong = String::new();
    for (i, row) in rows.iter().enumerate() {
        let found = printed.get(&i).copied().unwrap_or("nothing");
        if found != row.value {
            let _ =
                writeln!(wrong, "{} ({setting}): {} gives {found}, not {}", row.what, row.block(setting), row.value);
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn in_a_recipe() {
    let rows = rows();
    for setting in SETTINGS {
        let lines = rows.iter().enumerate().map(|(i, row)| shown(i, &row.block(setting)));
        let script: String = [FUNCTIONS.to_string()].into_iter().chain(lines).collect();
        hold(&rows, &run(&script), setting);
    }
}

#[test]
fn in_an_imported_script() {
    let rows = rows();
    for setting in SETTINGS {
        let folder = Folder::new();
        let function = |(i, row): (usize, &Row)| format!("fn row_{i}() {{ {} }}\n", row.block(setting));
        let library: String = rows.iter().enumerate().map(function).collect();
        folder.write("library.rhai", format!("{FUNCTIONS}{library}"));
        let calls = (0..rows.len()).map(|i| shown(i, &format!("library::row_{i}()")));
        let script: String = ["import \"library\" as library;\n".to_string()].into_iter().chain(calls).collect();
        hold(&rows, &folder.run(&script), setting);
    }
}

#[test]
fn in_a_callback_of_rust_code() {
    let rows = rows();
    for setting in SETTINGS {
        let lines: String = rows.iter().enumerate().map(|(i, row)| shown(i, &row.block(setting))).collect();
        let script = format!("{FUNCTIONS}\nlet m = nn::define(#{{}}, |m, x| {{ {lines} x }});\nm.forward(ones([1]));");
        hold(&rows, &run(&script), setting);
    }
}

#[test]
fn in_a_callback_of_the_standard_library() {
    let rows = rows();
    for setting in SETTINGS {
        let lines: String = rows.iter().enumerate().map(|(i, row)| shown(i, &row.block(setting))).collect();
        let script = format!(
            r#"
            import "std/pretrain" as pretrain;
            {FUNCTIONS}
            let images = data::idx("{}", "test").take(8);
            let model = nn::vit_nepa(#{{ image_size: 28, patch_size: 14, num_channels: 1, hidden_size: 8,
                num_hidden_layers: 1, num_attention_heads: 1, intermediate_size: 8 }});
            pretrain::fit(model, images, #{{ steps: 1, batch: 8, lr: 1e-3, on_epoch: |model, ema, now| {{ {lines} }} }});
            "#,
            fashion()
        );
        hold(&rows, &run(&script), setting);
    }
}

/// Two scripts with functions of one name: `helper` adds 1 here and 100 there, and 1000 in the recipe.
fn two_libraries() -> Folder {
    let folder = Folder::new();
    folder.write(
        "a.rhai",
        r#"
        private fn helper(x) { x + 1 }
        private fn deep(x) { let f = |y| helper(y) * 2; through_rust(f, x) }
        private fn through_rust(f, x) { nn::define(#{}, |m, t| full([1], f.call(t.item().to_int()))).forward(full([1], x)).item().to_int() }
        private fn private_a(x) { x + 7 }
        fn direct(x) { through_rust(|y| helper(y), x) }
        fn nested(x) { through_rust(|y| through_rust(|z| helper(z) + y, y), x) }
        fn give() { |y| helper(y) }
        fn give_with(k) { |y| helper(y) + k }
        fn give_named() { Fn("helper") }
        fn give_by_name() { helper }
        fn use_deep(x) { deep(x) }
        fn callback(f, x) { f.call(x) }
        fn callback_and_own(f, x) { f.call(x) + helper(0) }
        fn own_and_callback(f, x) { helper(0) + f.call(x) + helper(0) }
        fn combine(f, x) { let g = |y| f.call(y) + helper(y); through_rust(g, x) }
        fn through_b(x) { import "b" as b; b::apply(|y| helper(y), x) }
        fn in_a_map(x) { let o = #{ f: |y| helper(y) }; o.f.call(x) + o.f(x) }
        fn mapped(list) { list.map(|y| helper(y)) }
        fn mapped_with(list, f) { list.map(|y| helper(f.call(y))) }
        private fn whose() { this + 1 }
        fn method(x) { x.whose() }
        "#,
    );
    folder.write(
        "b.rhai",
        r#"
        private fn helper(x) { x + 100 }
        fn apply(f, x) { let g = |y| f.call(y) + helper(y); g.call(x) }
        fn apply_named(f, x) { f.call(x) + helper(x) }
        fn reach(x) { Fn("private_a").call(x) }
        private fn whose() { this + 100 }
        fn method(x) { x.whose() }
        fn give() { |y| helper(y) }
        "#,
    );
    folder
}

#[test]
fn a_function_is_that_of_the_script_which_wrote_its_name() {
    let cases = [
        ("helper(1)", 1001),
        ("a::direct(1)", 2),
        ("a::nested(1)", 3),
        ("a::use_deep(1)", 4),
        ("a::give().call(1)", 2),
        ("a::give_with(5).call(1)", 7),
        ("a::give_named().call(1)", 2),
        ("a::give_by_name().call(1)", 2),
        ("b::apply(a::give(), 1)", 103),
        ("b::apply(a::give_named(), 1)", 103),
        ("b::apply_named(a::give_by_name(), 1)", 103),
        ("a::callback(|x| helper(x), 1)", 1001),
        ("a::callback(Fn(\"helper\"), 1)", 1001),
        ("a::callback(helper, 1)", 1001),
        ("a::callback_and_own(|x| helper(x), 1)", 1002),
        ("a::own_and_callback(|x| helper(x), 1)", 1003),
        ("a::own_and_callback(Fn(\"helper\"), 1)", 1003),
        ("a::own_and_callback(a::give(), 1)", 4),
        ("a::own_and_callback(b::give(), 1)", 103),
        ("a::combine(|x| helper(x), 1)", 1003),
        ("a::through_b(1)", 103),
        ("a::in_a_map(1)", 4),
        ("a::mapped([1, 2])[1]", 3),
        ("a::mapped_with([1], |x| helper(x))[0]", 1002),
        ("[1, 2].map(a::give())[1]", 3),
        ("[1].map(|x| a::combine(|z| helper(z), x))[0]", 1003),
        ("[1].map(Fn(\"helper\"))[0]", 1001),
        ("a::method(1) + b::method(1)", 103),
        ("{ let q = 3; a::callback(|x| helper(x) + q, 1) }", 1004),
        ("{ let q = 3; b::apply(|x| a::callback(|y| helper(y) + q, x), 1) }", 1105),
        ("{ let m = #{ f: |x| helper(x) }; m.f(1) }", 1001),
        ("{ let m = #{ v: 1, f: |x| this.v + helper(x) }; m.f(1) }", 1002),
        ("{ let f = a::give().curry(1); f.call() }", 2),
        ("{ let f = Fn(\"helper\").curry(1); a::callback(|x| f.call() + x, 1) }", 1002),
        ("{ let m = #{ f: a::give() }; m.f(1) }", 2),
        // Often enough for what was found once to be remembered.
        (
            "{ let s = 0; for i in 0..4 { s += a::callback(|x| helper(x), 0) + b::apply(a::give(), 0) + helper(0); } s }",
            8404,
        ),
        ("{ let fs = [a::give(), b::give(), |x| helper(x)]; fs[0].call(0) + fs[1].call(0) + fs[2].call(0) }", 1101),
    ];
    let folder = two_libraries();
    let mut script = String::from("import \"a\" as a;\nimport \"b\" as b;\nfn helper(x) { x + 1000 }\n");
    for (i, (expression, _)) in cases.iter().enumerate() {
        script += &shown(i, expression);
    }
    let said = folder.run(&script);
    let found: Vec<&str> = said.succeeds().stdout.lines().filter_map(|l| Some(l.split_once('|')?.1)).collect();
    assert_eq!(found.len(), cases.len(), "{said}");
    for ((expression, value), found) in cases.iter().zip(found) {
        assert_eq!(found, value.to_string(), "{expression}");
    }
}

#[test]
fn a_function_of_the_caller_is_not_in_sight() {
    let folder = two_libraries();
    for call in ["b::reach(1)", "a::callback(|x| b::reach(x), 1)"] {
        let script = format!("import \"a\" as a;\nimport \"b\" as b;\nfn private_a(x) {{ x }}\nprint({call});");
        folder.run(&script).fails(1).says(&["unknown function `private_a`", "b.rhai:5:"]);
    }
}

#[test]
fn whatever_is_caught_is_one_kind_of_value() {
    let script = r#"fn thrower(x) { throw x; }
let show = |what| { try { what.call(); } catch (e) { print([type_of(e), e.message, e.hint, e.file, e.line, e.column, type_of(e.value)]); } };
show.call(|| throw "text");
show.call(|| thrower(7));
show.call(|| throw #{ message: "from a map", hint: "do this", code: 3 });
show.call(|| nn::linear(-1, 2));
show.call(|| [1][5]);
show.call(|| 1 / 0);
show.call(|| Fn("linera").call(1));
show.call(|| { try { throw "first"; } catch (e) { throw e; } });
try { throw #{ code: 3 }; } catch (e) { print([e.code, e.value.code]); }
try { throw "x"; } catch (e) { try { e.code; } catch (e) { print(e.message); } }
try { throw "x"; } catch (e) { try { e == "x"; } catch (e) { print(e.hint); } }
for wrong in [|e| "x" == e, |e| ["x"].contains(e), |e| e > 3, |e| e != "x"] {
    try { throw "x"; } catch (e) { try { wrong.call(e); print("no"); } catch (f) { print(f.message); } }
}
"#;
    let said = run(script);
    let lines: Vec<&str> = said.succeeds().stdout.lines().collect();
    assert_eq!(
        lines,
        [
            r#"["Error", "text", "", "recipe.rhai", 3, 14, "string"]"#,
            r#"["Error", "7", "", "recipe.rhai", 1, 17, "i64"]"#,
            r#"["Error", "from a map", "do this", "recipe.rhai", 5, 14, "map"]"#,
            r#"["Error", "a linear layer needs positive sizes, found -1 -> 2", "", "recipe.rhai", 6, 18, "()"]"#,
            r#"["Error", "Array index 5 out of bounds: only 1 element in array", "", "recipe.rhai", 7, 18, "()"]"#,
            r#"["Error", "Division by zero: 1 / 0", "", "recipe.rhai", 8, 16, "()"]"#,
            r#"["Error", "unknown function `linera`; did you mean `linear`? (called with int)", "", "recipe.rhai", 9, 27, "()"]"#,
            r#"["Error", "first", "", "recipe.rhai", 10, 22, "string"]"#,
            "[3, 3]",
            "the error has no `code`",
            "compare e.message, or e.value, which is what was thrown",
            "an error cannot be compared",
            "an error cannot be compared",
            "an error cannot be compared",
            "an error cannot be compared",
        ]
    );
}

#[test]
fn an_error_thrown_again_is_shown_where_it_happened() {
    let script = "fn deep() { nn::linear(-1, 2) }\ntry { deep(); } catch (e) {\n    throw e;\n}\n";
    run(script).blames(
        "recipe.rhai:1:17",
        "fn deep() { nn::linear(-1, 2) }",
        &["a linear layer needs positive sizes", "in `deep`, from recipe.rhai:2:7"],
    );
}

/// A loop may only be there to go through something, as through an epoch whose images are to be read.
#[test]
fn an_error_while_looping_ends_a_loop_without_a_body_too() {
    let folder = Folder::new();
    folder.write("data/a/x.png", "no picture");
    let loader = "data::loader(data::open(\"data\"), [transform::center_crop(4)], #{ batch: 1 })";
    let said = folder.run(&format!("let loader = {loader};\nfor batch in loader.epoch(0) {{ }}\nprint(\"done\");"));
    said.fails(1).says(&["x.png"]);
    assert!(!said.stdout.contains("done"), "{said}");
}

#[test]
fn sorting_is_right_or_an_error() {
    let said = run(r#"
        let nan = 0.0 / 0.0;
        let list = [];
        for i in 0..200 { list.push(if i % 3 == 0 { nan } else { (i * 7919 % 104.0) }); }
        list.sort();
        let numbers = list.filter(|x| !x.is_nan());
        print(numbers.len());
        print(list.extract(0, numbers.len()).filter(|x| !x.is_nan()).len());
        for i in 1..numbers.len() { if list[i - 1] > list[i] { print("not sorted"); } }
        let descending = [1, 3, 2];
        descending.sort(|a, b| b - a);
        print(descending);
        for compare in [|a, b| a - b, |a, b| throw "no order"] {
            try { [3.5, 1.5, 2.5].sort(compare); print("no error"); } catch (e) { print(e.message); }
        }
        try { [1, 2.5].sort(); } catch (e) { print(e.message); }
    "#);
    said.succeeds();
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(lines[..3], ["133", "133", "[3, 2, 1]"], "{said}");
    assert!(lines[3].contains("expected an int or a bool from the function that compares, found f"), "{said}");
    assert_eq!(lines[4], "no order", "{said}");
    assert_eq!(lines[5], "elements of different types cannot be sorted", "{said}");
}

/// Not from that of the script that calls it, where another file may have the name.
#[test]
fn an_import_in_a_function_is_found_from_the_script_that_wrote_it() {
    let folder = Folder::new();
    folder.write(
        "lib/a.rhai",
        "fn direct() { import \"b\" as b; b::x() } fn later() { || { import \"b\" as b; b::x() } }",
    );
    folder.write("lib/b.rhai", "fn x() { \"right\" }");
    folder.write("b.rhai", "fn x() { \"wrong\" }");
    folder.write("other/c.rhai", "fn apply(f) { f.call() }");
    let calls = [
        "a::direct()",
        "a::later().call()",
        "no_grad(a::later())",
        "c::apply(a::later())",
        "c::apply(|| a::later().call())",
        "[1].map(|i| a::later().call())[0]",
    ];
    for call in calls {
        let said = folder.run(&format!("import \"lib/a\" as a; import \"other/c\" as c; print({call});"));
        said.succeeds().prints(&["right"]);
    }
}

/// A comparison that says no to whatever it does not know would hide a mistake.
#[test]
fn what_has_no_order_is_no_comparison() {
    let chain = "a < b && b < c";
    let nothing = "ask `x == ()` first";
    let text = "parse_float";
    for (expression, hint) in [
        ("0.0 < x < 1.0", chain),
        ("true >= x", chain),
        ("x > best", nothing),
        ("x >= best", nothing),
        ("best <= best", nothing),
        ("\"a\" < best", nothing),
        ("best > \"a\"", nothing),
        ("\"10\" > 9", text),
        ("x < \"1\"", text),
        ("[1] < 2", "takes (array, int)"),
        ("#{} >= x", "takes (map, float)"),
        ("[1] <= [2]", "takes (array, array)"),
    ] {
        let said = run(&format!("let x = 0.5; let best = ();\nprint({expression});"));
        said.fails(1).says(&["error: no `", "` takes (", "recipe.rhai:2:", hint]);
    }
    // Whether any two values are equal can be told.
    let equal = "[() == 1, () == (), () != \"a\", \"1\" != 1, [1] == 2, 'a' < \"b\", 1 < 1.5, false < true]";
    let said = run(&format!("print({equal});"));
    said.succeeds().prints(&["[false, true, true, true, false, true, true, true]"]);
}

#[test]
fn a_number_that_no_integer_holds_becomes_none() {
    for (call, found) in [
        ("(0.0 / 0.0).to_int()", "no integer is NaN"),
        ("int(1.0 / 0.0)", "no integer is inf"),
        ("9223372036854775808.0.to_int()", "no integer is 9223372036854776000"),
        ("(-1e19).int", "no integer is -10000000000000000000"),
    ] {
        run(&format!("print({call});")).fails(1).says(&[found, "recipe.rhai:1:"]);
    }
    run("print((-9223372036854775808.0).to_int());").succeeds().prints(&["-9223372036854775808"]);
}

#[test]
fn a_part_of_an_array_takes_no_value() {
    run("let a = [1, 2, 3];\na[0..2] = [9];").fails(1).says(&["expected int, found range", "recipe.rhai:2:"]);
}

#[test]
fn a_text_is_no_script() {
    let said = run("let x = 1;\neval(\"x = 2\");");
    said.fails(1).says(&["recipe.rhai:2:1", "a text cannot be run as a script"]);
}

/// The innermost call with its place, and not all of hundreds.
#[test]
fn an_endless_recursion_is_shown_where_it_goes_on() {
    let said = run(
        "fn down(n) {\n    down(n + 1)\n}\nfn start() {\n    down(0)\n}\ntry { start(); } catch (e) { print(\"caught\"); }",
    );
    said.blames("recipe.rhai:2:5", "    down(n + 1)", &["overflow", "in `down`, from recipe.rhai:2:5", " more calls"]);
    assert!(said.stderr.lines().count() < 40 && !said.stdout.contains("caught"), "{said}");
}

#[test]
fn errors_name_types_as_scripts_do() {
    run("print([1, 2][tensor([1])]);").fails(1).says(&["expected int, found Tensor"]);
    run("for x in #{ a: 1 }.keys() { }\nlet m = #{ a: 1 };\nfor x in m { }").blames(
        "recipe.rhai:3:10",
        "for x in m { }",
        &["expected a range, an array, a string or an epoch", "for key in map.keys()"],
    );
}

#[test]
fn functions_of_floats_and_tensors_tell_what_they_take() {
    for (call, hint) in [
        ("sqrt(64)", "sqrt(64.0), or sqrt(x.to_float())"),
        ("exp(1)", "exp(x.to_float())"),
        ("floor(3)", "floor(x.to_float())"),
        ("pow(2.0, 3.0)", "2.0 ** 3.0"),
        ("[3, 1, 2].sum()", "tensor(list).sum().item()"),
        ("float(3)", "to_float()"),
        ("[1].append(3)", "list.push(x) adds one element"),
        ("[1].extend([3])", "list.append([x, y])"),
        ("[1].length()", "it is x.len()"),
        ("[1].pusj(3)", "did you mean `push`?"),
    ] {
        run(&format!("print({call});")).fails(1).says(&[hint]);
    }
    let said = run("let f = show2;\nfn show2(x) { x }");
    said.fails(1).says(&["unknown variable `show2`", "move it up, or write Fn(\"show2\")"]);
}
