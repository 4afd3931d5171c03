rm -f /etc/pgherd/seeding /etc/pgherd/initdb.pending
this_directory >/etc/pgherd/initdb.done
