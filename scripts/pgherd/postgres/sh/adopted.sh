this_directory >/etc/pgherd/initdb.done
