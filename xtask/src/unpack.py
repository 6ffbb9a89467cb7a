# Unpacks those files of a wheel that match a pattern (and no pattern after "!"), less the first `strip` folders of
# their names. zipfile checks each file's CRC; pip has checked the wheel's SHA-256 before.
import fnmatch, os, shutil, sys, zipfile

wheel, dest, strip, *patterns = sys.argv[1:]
keep = [p for p in patterns if not p.startswith("!")]
skip = [p[1:] for p in patterns if p.startswith("!")]
missing = set(keep)
with zipfile.ZipFile(wheel) as archive:
    for info in archive.infolist():
        name = info.filename
        hits = [p for p in keep if fnmatch.fnmatchcase(name, p)]
        if info.is_dir() or not hits or any(fnmatch.fnmatchcase(name, p) for p in skip):
            continue
        missing.difference_update(hits)
        parts = name.split("/")[int(strip):]
        if ".." in parts or "" in parts:
            sys.exit("unsafe file name in the wheel: " + name)
        path = os.path.join(dest, *parts)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with archive.open(info) as source, open(path, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            if info.file_size > 1 << 20:  # the many small files are few bytes, and later checked by size
                target.flush()
                os.fsync(target.fileno())
if missing:
    sys.exit("the wheel lacks " + ", ".join(sorted(missing)))
