# Is the passfile what it ought to be? The server cannot write there itself.
in_passfile "$password" || { [ -n "${replacing-}" ] && in_passfile "$replacing"; } || echo 'stale passfile'
