#!/usr/bin/env bash
# Looks at report.html in a headless Chromium: scripts/check_report.sh BUILD [SCREENSHOTS].
#
# BUILD is a build folder with switchyard and test_report. A report of the demo model on 2 ranks and
# a made-up one of 61 layers, 256 experts and 64 ranks are opened in light and dark, 1280 and 390
# pixels wide. Each has to be free of errors, no wider than its window, in the colours asked for,
# and has to name the cell under the pointer. Pictures go to SCREENSHOTS if that is given. Without
# a Chromium it says so and ends with 77.
set -u
build=${1:?usage: scripts/check_report.sh BUILD [SCREENSHOTS]}
pictures=${2:-}
root=$(cd "$(dirname "$0")/.." && pwd)
program=$build/launcher/switchyard
maker=$build/tests/test_report
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome)
if [ -z "$browser" ]; then
    echo "skipped: there is no chromium, chromium-browser or google-chrome"
    exit 77
fi
for tool in "$program" "$maker"; do
    [ -x "$tool" ] || { echo "$tool is not built" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -z "$pictures" ] || mkdir -p "$pictures" || exit 1
failures=0
fail() {
    echo "FAILED: $*" >&2
    failures=$((failures + 1))
}

# browse WIDTH HEIGHT light|dark ARGUMENTS...: stdout is Chromium's, $work/console its console.
browse() {
    local width=$1 height=$2 scheme=1
    [ "$3" = dark ] && scheme=0
    shift 3
    timeout 90 "$browser" --headless=new --no-sandbox --disable-gpu --hide-scrollbars \
        --user-data-dir="$work/user" --enable-logging=stderr --virtual-time-budget=3000 \
        --blink-settings=preferredColorScheme=$scheme --window-size="$width,$height" "$@" \
        2>"$work/console"
}

# A copy of the page that tells its parent what it sees. The parent, of which it is a frame, since
# a window cannot be as narrow as a telephone, writes that into its own first element.
cat >"$work/first.js" <<'END'
var faults = [];
addEventListener("error", function (e) { faults.push(e.message); });
END
cat >"$work/last.js" <<'END'
addEventListener("load", function () {
    var svg = document.querySelector("svg[data-v]"), d = svg.dataset;
    var box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
    svg.dispatchEvent(new PointerEvent("pointermove", {
        clientX: box.left + (+d.x + d.w / 2) * scale,
        clientY: box.top + (+d.y + d.h / 2) * scale
    }));
    var ground = getComputedStyle(document.body).backgroundColor.replace(/ /g, "");
    var readout = document.getElementById("readout").textContent;
    var width = document.documentElement.scrollWidth;
    parent.postMessage([innerWidth, width, faults.length, ground, readout].join(";"), "*");
});
END
probed() {
    sed -e "/<head>/r $work/first.html" -e "/<\/main>/r $work/last.html" "$1"
}
for part in first last; do
    { echo '<script>'; cat "$work/$part.js"; echo '</script>'; } >"$work/$part.html"
done

frame() {
    echo "<!DOCTYPE html><html><head><script>addEventListener('message',function(e){"
    echo "document.documentElement.setAttribute('data-probe',e.data)});</script></head><body>"
    echo "<iframe src=\"probed.html\" width=\"$1\" height=\"900\" style=\"border:0\"></iframe>"
    echo "</body></html>"
}

# check NAME PAGE light|dark WIDTH
check() {
    local name=$1 page=$2 scheme=$3 width=$4 probe inner wide faults ground readout
    probed "$page" >"$work/probed.html"
    frame "$width" >"$work/frame.html"
    browse 1400 1000 "$scheme" --dump-dom "file://$work/frame.html" >"$work/dom" ||
        fail "$name: the browser failed: $(tail -n 2 "$work/console")"
    grep -h 'CONSOLE' "$work/console" && fail "$name: the console is not empty"
    probe=$(grep -o 'data-probe="[^"]*"' "$work/dom" | head -n 1 | cut -d'"' -f2)
    IFS=';' read -r inner wide faults ground readout <<<"$probe"
    [ "$inner" = "$width" ] || fail "$name: the window is \"$inner\" wide, not $width"
    [ "${wide:-99999}" -le "$width" ] || fail "$name: the page is $wide wide in a window of $width"
    [ "$faults" = 0 ] || fail "$name: $faults script errors"
    case $scheme$ground in
    "lightrgb(245,246,248)" | "darkrgb(18,21,26)") ;;
    *) fail "$name: the page's ground is $ground" ;;
    esac
    [[ $readout =~ ^layer\ 0,\ expert\ 0:\ .*times\ the\ mean ]] ||
        fail "$name: under the pointer: \"$readout\""
    echo "ok $name: $wide of $width pixels, \"$readout\""
    [ -z "$pictures" ] || browse "$width" 6000 "$scheme" \
        --screenshot="$pictures/$name.png" "file://$page" >"$work/out" || fail "$name: no picture"
}

mkdir "$work/demo" "$work/large"
timeout 120 "$program" profile "$root/tests/data/demo" -q --label prose="$root/README.md" \
    --label code="$root/runtime/forward.c" --ctx 128 -n 2 --out "$work/demo" >"$work/out" ||
    fail "profile of the demo model"
"$maker" "$work/large" && timeout 120 "$program" report -q "$work/large" || fail "the large report"
for page in demo large; do
    for scheme in light dark; do
        for width in 1280 390; do
            check $page-$scheme-$width "$work/$page/report.html" $scheme $width
        done
    done
done
browse 1280 1000 light --no-pdf-header-footer --print-to-pdf="$work/page.pdf" \
    "file://$work/demo/report.html" >"$work/out" && [ -s "$work/page.pdf" ] || fail "printing"
[ -z "$pictures" ] || cp "$work/page.pdf" "$pictures/demo.pdf"
exit $((failures > 0))
