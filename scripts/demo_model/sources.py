"""Which Debian packages the demo model learns from.

Every entry is (package, how to read it, which member files, where they count).
The readers named here live in prepare.py.  All packages come from the "main"
section of Debian 12 (bookworm), so all are free software or free documentation;
prepare.py copies the licence names out of each package's own copyright file.
"""

# (package, reader, regular expression that a member's path must match)
ENGLISH = [
    ("debian-handbook", "html", r"/en-US/.*\.html$"),
    ("developers-reference", "rst", r"_sources/.*\.rst\.txt$"),
    ("debian-reference-en", "html", r"\.en\.html$"),
    ("maint-guide", "html", r"\.en\.html$"),
    ("debian-policy", "html", r"\.html(\.gz)?$"),
    ("debian-faq", "html", r"\.en\.html$"),
    ("harden-doc", "html", r"/en-US/.*\.html$|/html/en/.*\.html$|\.en\.html$"),
    ("debian-kernel-handbook", "html", r"\.html$"),
    ("installation-guide-amd64", "html", r"/en/.*\.html$"),
    ("aptitude-doc-en", "html", r"/en/.*\.html$"),
    ("doc-debian", "plain", r"\.txt(\.gz)?$"),
    ("manpages", "roff", r"/man/man\d/.*\.gz$"),
    ("manpages-dev", "roff", r"/man/man\d/.*\.gz$"),
    ("python3.11-doc", "rst", r"_sources/.*\.rst\.txt$"),
    ("postgresql-doc-15", "html", r"\.html$"),
    ("git-doc", "plain", r"\.txt(\.gz)?$"),
    ("libreoffice-help-en-us", "html", r"/en-US/.*\.html$"),
    ("gnome-user-docs", "html", r"/help/C/.*\.page$"),
    ("gimp-help-en", "html", r"/en/.*\.html$"),
    ("apache2-doc", "html", r"/en/.*\.html$"),
    ("zsh-doc", "html", r"\.html$"),
    ("bash-doc", "html", r"bashref\.html$"),
    ("sqlite3-doc", "html", r"\.html$"),
    ("octave-doc", "html", r"octave\.html/.*\.html$"),
    ("perl-doc", "pod", r"\.pod$"),
    ("linux-source-6.1", "rst", r"/Documentation/(?!translations/|devicetree/|ABI/|features/).*\.rst$"),
]

# The kernel and the C library are source packages that carry a tarball; only
# subsystems that read like ordinary C are taken (no drivers, no tables).
C_SOURCE = [
    ("linux-source-6.1", "c",
     r"^linux-source-6\.1/(kernel|mm|fs|lib|block|ipc|init|crypto|security|virt|tools/lib|tools/perf"
     r"|net/(core|ipv4|ipv6|sched|unix|netlink|bridge|sunrpc|socket\.c|mac80211|sctp|tipc)"
     r"|drivers/(base|md|char|block|input|tty|usb/core|pci|cpufreq|hwmon|rtc|watchdog|virtio))/.*\.c$"),
    ("glibc-source", "c",
     r"^glibc-2\.36/(stdio-common|stdlib|string|malloc|posix|time|io|libio|misc|nss|elf|nptl|inet"
     r"|resolv|socket|sunrpc|argp|dirent|iconv|intl|locale|login|rt|support|nscd)/.*\.c$"),
]

PYTHON = [(p, "python", r"\.py$") for p in (
    "libpython3.11-minimal", "libpython3.11-stdlib", "python3-django", "python3-docutils",
    "python3-matplotlib", "python3-networkx", "python3-nltk", "python3-numpy",
    "python3-pandas", "python3-scipy", "python3-sklearn", "python3-sphinx",
    "python3-sqlalchemy", "python3-sympy", "python3-twisted")]

# Hindi: the message catalogues of free desktop software, MediaWiki's messages
# and LibreOffice's help.
_MO = r"/(hi|hi_IN)/LC_MESSAGES/.*\.mo$"
HINDI = [("libreoffice-help-hi", "hindi_html", r"/hi/text/.*\.html$"),
         ("mediawiki", "hindi_json", r"/hi\.json$")] + [(p, "mo", _MO) for p in """
    aisleriot audacity-data balsa-data bleachbit brasero-common budgie-control-center-data
    caja-common calligra-data calligrasheets-data cervisia cherrytree cinnamon-l10n
    compiz-core compiz-plugins-extra compiz-plugins-main dolphin eog epiphany-browser-data
    evolution-common evolution-data-server-common evolution-ews firewalld flatpak
    folks-common freedombox fwupd gbrainy gconf2-common gedit-common gftp-common
    gimagereader-common gnome-applets-data gnome-color-manager gnome-control-center-data
    gnome-disk-utility gnome-packagekit-common gnome-panel-data
    gnome-settings-daemon-common gnome-shell-common gnome-software-common
    gnome-system-monitor gnome-system-tools gnome-terminal-data gnote gnucash-common
    gsettings-desktop-schemas guestfs-tools gvfs-common hexchat-common inkscape k3b-i18n
    kalarm kexi-data kig kile-l10n kio kmail kmplot kolourpaint konqueror konversation-data
    krita-l10n ktexteditor-data kwordquiz libalpm13 libclutter-1.0-common
    libgdk-pixbuf2.0-common libglib2.0-data libgtk-3-common libgtk2.0-common
    libreoffice-l10n-hi libvirt-l10n marco-common mate-control-center-common
    mate-panel-common mate-terminal-common mate-utils-common nautilus-data network-manager
    network-manager-gnome okular orca pacman-package-manager pidgin-data
    plasma-workspace-data pluma-common python3-django python3-django-horizon
    python3-sepolgen python3-wxgtk4.0 rhythmbox-data seahorse-daemon shotwell-common
    sphinx-common sugar-session synaptic system-config-printer-common totem-common
    trustedqsl tuxpaint-config tuxpaint-data umbrello-data vinagre vino virtinst
    vlc-l10n""".split()]

KINDS = {"english": ENGLISH, "c": C_SOURCE, "python": PYTHON, "hindi": HINDI}

# Largest share of one package in one kind's text, in bytes, and the largest
# total: the kinds should not be ruled by one author's style.
PACKAGE_CAP = {"english": 5_000_000, "c": 16_000_000, "python": 2_500_000, "hindi": 10_000_000}

# A document under 150 kB is held out when its name's hash is 0 modulo this.
HOLD_OUT_ONE_IN = {"english": 30, "c": 30, "python": 30, "hindi": 12}

# Share of each kind in what the model is shown.
MIX = {"english": 0.40, "c": 0.25, "python": 0.15, "hindi": 0.20}
