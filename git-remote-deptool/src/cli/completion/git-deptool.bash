# Completion of 'git deptool' in bash. Git's own completion calls it; bash-completion loads it when it is needed, if it
# is among its completions as 'git-deptool'. What can be typed is asked of 'git deptool' itself.

_git_deptool ()
{
	local first=${__git_cmd_idx:-1} prefix="" line word
	# Readline takes what is behind a '=' or ':' for a word of its own.
	[[ $cur == *[=:]* ]] && prefix="${cur%"${cur##*[=:]}"}"
	COMPREPLY=()
	while IFS= read -r line; do
		word="${line%%$'\t'*}"
		printf -v word '%q' "${word#"$prefix"}"
		# Git has told bash to put no space behind a word.
		[[ $word == */ ]] || word+=" "
		COMPREPLY+=("$word")
	done < <(__git deptool complete "$((cword - first))" -- "${words[@]:first}" 2>/dev/null)
}
