# What a database has in the WAL of $timeline that ends after the position $from: its last record, and how many commits,
# with prepared transactions; of the last of these where it is, and when it was. $from may lie within a record, as what
# was received does; $start, where the look begins, is where one begins.
beyond() {
  wal_records "$1" | awk -v from="$from" '
    function number(lsn,  i, n) {  # a double holds each byte of 9 PB; the slash parts 32 bits from 32
      while (length(lsn) - index(lsn, "/") < 8) sub("/", "/0", lsn)
      sub("/", "", lsn)
      for (i = 1; i <= length(lsn); i++) n = n * 16 + index("123456789ABCDEF", substr(lsn, i, 1))
      return n
    }
    BEGIN { limit = number(toupper(from)) }
    match($0, /lsn: [0-9A-F]+\/[0-9A-F]+/) {
      last = substr($0, RSTART + 5, RLENGTH - 5)
      match($0, /\/ *[0-9]+, tx/); size = substr($0, RSTART + 1, RLENGTH - 5) + 0
      at = number(last)
      # each page of 8 kB that it goes on to begins with 24 bytes of its own
      if (at + size + 24 * int((at % 8192 + size - 1) / 8192) <= limit) next
      found = last; length_of = size
      if ($0 ~ /^rmgr: Transaction/ && $0 ~ /desc: (COMMIT|PREPARE)/) {
        commits++
        committed = last; long = size; moment = ""
        if (match($0, /[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9] [0-9:]+/)) moment = substr($0, RSTART, RLENGTH) " UTC"
      }
    }
    END {
      if (found) print "beyond=" found, length_of, commits + 0
      if (committed) print "last=" committed, long, moment
    }'
}
beyond "$start" | grep . || [ "$start" = "$from" ] || beyond "$from"
