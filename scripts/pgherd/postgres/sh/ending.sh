# Of a server that is being stopped: say what it waits for longer than a moment, a line whenever that changes, until its
# container ends.
# Walsenders that are not of $spared are ended once it has waited for $grace seconds (empty: never), and again: nobody can
# log in by then, and a consumer comes back as long as it is let in.
# It gives up after $seconds in which others were waited for, and $archiving in which only the archiver was: with 75 where
# the shutdown checkpoint is written, so that to kill it loses nothing, else with 74. What the server itself takes for
# that checkpoint does not count.
waited=0 archived=0 told='' seen='' at=$(date +%s)
while :; do
  state=$(LC_ALL=C pg_controldata "$PGDATA" | sed -n 's/^Database cluster state: *//p')
  senders='' titles='' archiver=''
  for process in "${processes:-/proc}"/[0-9]*; do
    { title=$(tr '\0' ' ' <"$process/cmdline"); } 2>/dev/null || continue
    case $title in
      'postgres: '*'walsender '*) senders="$senders ${process##*/}" titles="$titles; ${process##*/} ${title#*walsender }" ;;
      'postgres: '*'archiver '*) set -- ${title##*archiver } && archiver=$* ;;
    esac
  done
  what=sessions
  [ "$state" != 'shut down' ] || [ -z "$archiver" ] || what="archiver $archiver"
  [ -z "$senders" ] || what="walsenders${titles#;}"
  [ "$state" != 'shutting down' ] || what=checkpoint
  # A title has a position that goes on: who is waited for counts.
  case "$what" in walsenders*) now="walsenders$senders" ;; *) now=$what ;; esac
  [ "$now" = "$told" ] || [ "$now" != "$seen" ] || { told=$now; echo "$what"; }
  seen=$now before=$at at=$(date +%s)
  passed=$((at - before))
  [ "$what" = checkpoint ] || waited=$((waited + passed))
  case $what in archiver*) archived=$((archived + passed)) ;; esac
  if [ -n "$grace" ] && [ "$waited" -ge "$grace" ]; then
    for pid in $senders; do
      case " $spared " in *" $pid "*) ;; *) kill -s TERM "$pid" 2>/dev/null || : ;; esac
    done
  fi
  if [ "$waited" -ge "$seconds" ] || [ "$archived" -ge "$archiving" ]; then
    [ "$state" = 'shut down' ] && exit 75 || exit 74
  fi
  sleep 0.1
done
