# Completion of 'git deptool' in fish, for a directory conf.d. What can be typed is asked of 'git deptool' itself, which
# prints a word, a tab and what it means.

function __git_deptool_complete
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    # Options of git may stand in front.
    if set -l at (contains -i -- deptool $before)
        set before $before[$at..]
    end
    git deptool complete (count $before) -- $before "$current" 2>/dev/null
end

complete -c git-deptool -f -a '(__git_deptool_complete)'
# Some versions of fish look for the completion of 'git-deptool' themselves, others get the name wrong.
complete -c git -f -n '__fish_git_using_command deptool' -a '(__git_deptool_complete)'
