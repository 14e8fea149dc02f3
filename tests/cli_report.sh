# The report by the program: it comes with a profile and has its figures; made anew from the files
# alone; refusals.
# timeout: 180
. "$(dirname "$0")/shell_helpers.sh"
program=${SWITCHYARD:?}
demo=$SY_TEST_DATA/demo

head -c 3000 "$SY_SOURCE_DIR/LICENSE" >text
head -c 2000 "$SY_SOURCE_DIR/runtime/forward.c" >code
timeout 60 "$program" profile "$demo" -q --label 'prose & <b>=text' --label code=code --ctx 64 \
    -n 2 --out dir >out 2>err || fail "profile"
page=dir/report.html
[ -s $page ] || fail "there is no report"

# value KEY LAYER BALANCE: a figure of profile.json, as the page rounds it with three decimals.
value() {
    grep -A 8 "^  {\"layer\": $2, \"experts\"" dir/profile.json | grep "\"$3\"" | head -n 1 |
        sed "s/.*\"$3\": {[^{}]*\"$1\": \([0-9.e+-]*\).*/\1/" | awk '{ printf "%.3f", $1 }'
}
# All layers' tables of experts and ranks, of which the page has one row each.
for layer in 0 1 2 3; do
    for balance in expert_balance rank_balance; do
        for key in max_over_mean excess_over_mean balancedness; do
            figure=$(value $key $layer $balance)
            [ -n "$figure" ] || fail "no $key of layer $layer in profile.json"
            grep -q "^<tr[^>]*><td>$layer</td>.*<td>$figure <i>" $page ||
                fail "layer $layer: $key $figure of $balance is not in the page"
        done
    done
done
tokens=$(sed -n 's/.*"synchronised": [a-z]*, "tokens": \([0-9]*\),.*/\1/p' dir/profile.json)
shown=$(sed -n 's|.*<p class="facts">\([0-9,]*\) tokens on 2 ranks of.*|\1|p' $page | tr -d ,)
[ "$shown" = "${tokens:-none}" ] || fail "$shown tokens are shown, $tokens were profiled"
worst=$(sed -n 's/.*Layer \([0-9]*\) is the worst.*/\1/p' $page)
most=$(for l in 0 1 2 3; do echo "$(value max_over_mean $l rank_balance) $l"; done |
    sort -rn | head -n 1)
[ "$worst" = "${most#* }" ] || fail "layer $worst is called the worst, it is ${most#* }"

# What a better placement gives is what place says of the same loads.
"$program" place dir/loads.json --json >placed 2>err || fail "place"
after=$(grep -o '"after": {"max_over_mean": [0-9.]*' placed | head -n 1 |
    awk '{ printf "%.3f", $NF }')
grep -q "class=\"worst\"><td>all</td><td>[0-9.]*</td><td></td><td>$after</td>" $page ||
    fail "place reaches $after, which the page does not show"

# Texts are texts, and nothing is fetched.
grep -q 'prose &amp; &lt;b&gt;' $page || fail "the label is not shown"
grep -q 'prose & <b>' $page && fail "the label is not escaped"
sed 's|http://www.w3.org/2000/svg||g' $page | grep -q -E 'https?:|src=|url\(' &&
    fail "it fetches"

# Anew, elsewhere, without a trace.
mkdir moved && cp dir/profile.json dir/trace.json moved
"$program" report moved >out 2>err || fail "report"
cmp -s $page moved/report.html || fail "made anew it differs"
[ -s out ] && fail "report writes to stdout"
grep -q 'moved/report.html' err || fail "it does not say what it wrote"
rm moved/trace.json
"$program" report -q moved dir >out 2>err || fail "report without a trace"
grep -q 'There is no time line' moved/report.html || fail "a missing trace is not told"
[ "$(ls -A moved | tr '\n' ' ')" = "profile.json report.html " ] || fail "left: $(ls -A moved)"
timeout 60 "$program" run "$demo" -q -p 'The quick' --max-tokens 4 --profile run >out 2>err ||
    fail "run --profile"
grep -q 'All experts are on one rank' run/report.html || fail "the report of one rank"

# Refusals; what was there stays.
expect 2 "no directory given" "$program" report
expect 3 "none/profile.json: No such file" "$program" report none
cp moved/report.html before
sed 's/"slot_rank": \[0/"slot_rank": [7/' dir/profile.json >moved/profile.json
expect 4 "moved/profile.json: layers\[0\].slot_rank, entry 0" "$program" report moved
head -c 3000 dir/profile.json >moved/profile.json
expect 4 "moved/profile.json" "$program" report moved
cmp -s before moved/report.html || fail "a refused profile changes the page"
mkdir -p blocked/report.html && cp dir/profile.json blocked
expect 3 "blocked/report.html: Is a directory" "$program" report blocked
[ "$(ls -A blocked | tr '\n' ' ')" = "profile.json report.html " ] ||
    fail "left: $(ls -A blocked)"
exit $((failures > 0))
