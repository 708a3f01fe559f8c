# Completion of 'git deptool' in fish. Its own completion of git asks that of 'git-deptool'. What can be typed is asked
# of 'git deptool' itself, which prints a word, a tab and what it means.

function __git_deptool_complete
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    git deptool complete (count $before) -- $before "$current" 2>/dev/null
end

complete -c git-deptool -f -a '(__git_deptool_complete)'
